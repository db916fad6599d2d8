"""The study's results as a table in markdown."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

TARGETS = ("onnx", "coreml", "executorch")


def table(rows: list[Row]) -> str:
    """One line per network; what failed is said in words."""
    by_model: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_model.setdefault(row["model"], {})[row["column"]] = row
    lines = [
        "| network | MACs left | parameters left | analysis, s | surgery, s | memory / trace's | error | removable "
        "| torch-pruning: MACs left | parameters left | s | error |" + "".join(f" {target} |" for target in TARGETS),
        "|---|" + "---:|" * (11 + len(TARGETS)),
    ]
    for name, columns in by_model.items():
        cells = [name, *_ours(columns.get("ours")), *_theirs(columns.get("torch-pruning"))]
        cells += [_target(columns.get(target)) for target in TARGETS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_notes(by_model), ""])


def _ours(row: Row | None) -> list[str]:
    if row is None or "failure" in row:
        return [row["failure"] if row else "not run"] + [""] * 6
    return [
        f"{row['macs_left']:.1%}",
        f"{row['parameters_left']:.1%}",
        f"{row['analysis_s']:.1f}",
        f"{row['surgery_s']:.2f}",
        f"{row['peak_mb'] / row['trace_mb']:.2f}",
        f"{row['error']:.0e}",
        f"{row['units']} in {row['groups']}",
    ]


def _theirs(row: Row | None) -> list[str]:
    if row is None or "failure" in row:
        return [row["failure"].replace("|", "/") if row else "not run"] + [""] * 3
    return [
        f"{row['macs_left']:.1%}",
        f"{row['parameters_left']:.1%}",
        f"{row['seconds']:.1f}",
        f"{row['error']:.0e}",
    ]


def _target(row: Row | None) -> str:
    """How far the exported file's answers are from the cut network's, or that its weights alone were compared."""
    if row is None or "failure" in row:
        return row["failure"].replace("|", "/") if row else "not run"
    return f"{row['weights_equal']} weights equal" if row["relative"] is None else f"{row['relative']:.0e}"


def _notes(by_model: dict[str, dict[str, Row]]) -> list[str]:
    """What stays whole, and why, where it isn't the outputs alone."""
    notes = ["Channels that stay, beside the outputs:", ""]
    for name, columns in by_model.items():
        whole = columns.get("ours", {}).get("whole", {})
        said = [f"{count} because {reason}" for reason, count in whole.items() if reason != "an output of the model"]
        if said:
            notes.append(f"- {name}: {', '.join(said)}")
    return notes
