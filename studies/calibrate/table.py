"""What each way of pruning without training costs, side by side."""

from __future__ import annotations

import statistics
from typing import Any

INTRODUCTION = """# Without training

Points of test accuracy against the dense network, means over the seeds; in brackets with int8 weights, as ONNX files
have them. Fashion-MNIST at 14x14, dense networks of five epochs, 1,024 unlabelled samples of the training split.
Printed by `python -m studies.calibrate.run`. A difference of 0.3 points between two cells of one seed says nothing.
"""


def table(rows: list[dict[str, Any]], ways: list[str]) -> str:
    """A line per network, granularity and share; a column per way."""
    head = ["network", "pruned", "kept", *ways, "CPU seconds of the last", "seeds"]
    lines = [INTRODUCTION, f"| {' | '.join(head)} |", "|---|---|---:|" + "---:|" * (len(ways) + 2)]
    for case in dict.fromkeys((row["network"], row["what"], row["share"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["what"], row["share"]) == case]
        seeds = {row["seed"] for row in mine}
        name, what, share = case
        kept = f"{share:.0%}" + (" of the MACs" if what == "channels" else "")
        cells = [name.removeprefix("zoo:"), what, kept]
        cells += [_cell([row for row in mine if row["way"] == way]) for way in ways]
        last = [row["cpu_seconds"] for row in mine if row["way"] == ways[-1]]
        cells += [f"{statistics.mean(last):.0f}" if last else "", str(len(seeds))]
        lines.append(f"| {' | '.join(cells)} |")
    whole = {(row["network"], row["seed"]): row["dense"] for row in rows}
    accuracies = {name: [found for (other, _), found in whole.items() if other == name] for name, _ in whole}
    dense = ", ".join(f"{name.removeprefix('zoo:')} {statistics.mean(found):.2f}" for name, found in accuracies.items())
    return "\n".join(lines) + f"\n\nDense: {dense}.\n"


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    plain = statistics.mean(row["test"] - row["dense"] for row in rows)
    if any(row["int8"] is None for row in rows):  # weights that int8 doesn't hold
        return f"{plain:+.2f} (no file)"
    return f"{plain:+.2f} ({statistics.mean(row['int8'] - row['dense'] for row in rows):+.2f})"
