"""Test accuracy against the dense network, method by method, and who wins with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from scipy.stats import t

from studies.rewinding.grid import CONTROL, METHODS

OURS = METHODS[0]


def tables(rows: list[dict[str, Any]]) -> str:
    """One for each network, data set and way of pruning: a line per compression ratio."""
    settings = sorted(
        {(row["network"], row["data"], row["kind"], row["epochs"]) for row in rows if row["method"] != CONTROL}
    )
    return "\n".join(_table(rows, *setting) for setting in settings)


def _table(rows: list[dict[str, Any]], network: str, data: str, kind: str, epochs: int) -> str:
    mine = [row for row in rows if (row["network"], row["data"], row["epochs"]) == (network, data, epochs)]
    runs = {
        (row["method"], row["seed"], _ratio(point)): point["test"] - row["history"][0]["test"]
        for row in mine
        if row["kind"] == kind or row["method"] == CONTROL
        for point in row["history"][1:]
    }
    ratios = sorted({ratio for method, _, ratio in runs if method != CONTROL})
    methods = [
        m
        for m in (*METHODS, CONTROL)
        if any(method == m for method, *_ in runs) and (m != CONTROL or kind == "iterative")
    ]
    dense = [row["history"][0]["test"] for row in mine if row["kind"] == kind and row["method"] == OURS]
    lines = [
        f"## {network} on {data}, {kind}",
        "",
        f"{epochs} epochs per training, {len(dense)} seeds, dense {statistics.mean(dense):.2f} on average.",
        "",
        f"Points of test accuracy against the dense network: median over seeds; in brackets {OURS} minus that method, "
        "paired by seed, mean and 95% interval (bold where it excludes zero).",
        "",
        "| fewer weights | " + " | ".join(methods) + " |",
        "|---:|" + "---:|" * len(methods),
    ]
    for ratio in ratios:
        cells = [_cell(runs, method, ratio) for method in methods]
        lines.append(f"| {ratio:.1f}× | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _ratio(point: dict[str, float]) -> float:
    return round(1 / point["density"], 1)


def _cell(runs: dict[tuple[str, int, float], float], method: str, ratio: float) -> str:
    own = {seed: drop for (m, seed, r), drop in runs.items() if m == method and math.isclose(r, ratio, rel_tol=0.03)}
    if not own:
        return ""
    median = f"{statistics.median(own.values()):+.2f}"
    ours = {seed: drop for (m, seed, r), drop in runs.items() if m == OURS and r == ratio}
    gains = [ours[seed] - own[seed] for seed in own if seed in ours]
    if method == OURS or len(gains) < 2:
        return median
    mean, half = statistics.mean(gains), _half_width(gains)
    text = f"{mean:+.2f} ± {half:.2f}"
    return f"{median} ({f'**{text}**' if abs(mean) > half else text})"


def _half_width(values: Iterable[float]) -> float:
    """Of Student's 95% interval of the mean."""
    sample = list(values)
    return float(t.ppf(0.975, len(sample) - 1)) * statistics.stdev(sample) / math.sqrt(len(sample))
