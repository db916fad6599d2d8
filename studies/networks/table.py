"""The table of this study, from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
TARGETS = ("onnx", "coreml", "executorch", "litert")
EXACT = 1e-4
"""torch-pruning's networks are exact within this; ours are proven to 1e-10, or 1e-4 where they round to float32."""
MARKS = {"right": "✓", "written": "written", "wrong": "**wrong**"}


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Markdown: counts, a row for each network, and what is said of everything that isn't right."""
    by = {(row["network"], row["part"], row["column"]): row for row in rows}
    cuts = [by[name, "cut", "channels"] for name in names if (name, "cut", "channels") in by]
    theirs = [by[name, "torch-pruning", "channels"] for name in names if (name, "torch-pruning", "channels") in by]
    lines = ["# Networks, cut and written", "", "Printed by `python -m studies.networks.run`.", ""]
    lines += [
        f"- {len(cuts)} of {len(names)} networks were cut: {sum(map(_halved, cuts))} to half of their multiply-"
        f"accumulates, {sum(_halved(row) and not row['inexact'] for row in cuts)} of them exactly; torch-pruning: "
        f"{sum(map(_halved, theirs))} of {len(theirs)}, {sum(_halved(row) and _exact(row) for row in theirs)} exactly"
    ]
    for target in TARGETS:
        made = [(by.get((name, target, "channels")), by.get((name, target, "sparse"))) for name in names]
        plain = [by.get((name, target, "plain")) for name in names]
        several = [(a, b, c) for (a, b), c in zip(made, plain, strict=True) if a and b and c]
        ours = sum(_good(a) and _good(b) for a, b, _ in several)
        lost = sum(_good(c) and not (_good(a) and _good(b)) for a, b, c in several)
        lines.append(
            f"- {target}: of {len(several)} networks {ours} as right files, both with half their channels' work and "
            f"with a fifth of their weights; the plain converter makes {sum(_good(c) for *_, c in several)} of the "
            f"dense networks, {lost} of which are missing among ours"
        )
    lines += ["", f"| network | MACs left | s, MB | torch-pruning | {' | '.join(TARGETS)} |", f"|---|{'---|' * 7}"]
    for name in names:
        cells = [_cut(by.get((name, "cut", "channels"))), _spent(by.get((name, "cut", "channels")))]
        cells.append(_theirs(by.get((name, "torch-pruning", "channels"))))
        cells += [
            " ".join(_mark(by.get((name, target, column))) for column in ("channels", "sparse", "plain"))
            for target in TARGETS
        ]
        if any(set(cell) - {"–", " "} for cell in cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "MACs left: `~` where only inexact cuts get there, with the widths' multiple where it isn't 8. Seconds are CPU "
        "time; MB the peak of the process, the network and PyTorch included. A target's cell: channels, weights at "
        "20%, the plain converter on the dense network; ✓ outputs within tolerance, – not made yet.",
        "",
        "What is said of the others:",
        "",
    ]
    lines += [f"- {row['network']}, {row['part']}, {row['column']}: {row['said']}" for row in rows if _tells(row)]
    return "\n".join(lines) + "\n"


def _halved(row: Row) -> bool:
    return bool(row.get("half"))


def _exact(row: Row) -> bool:
    error = row.get("error")
    return error is not None and error < EXACT


def _good(row: Row | None) -> bool:
    return row is not None and row.get("outcome") in ("right", "written")


def _tells(row: Row) -> bool:
    return bool(row.get("said")) and row.get("outcome") != "right"


def _cut(row: Row | None) -> str:
    if row is None or "macs_left" not in row:
        return "–" if row is None else "refused"
    width = f" (align {row['align']})" if row["align"] != 8 else ""
    return f"{'~' if row['inexact'] else ''}{row['macs_left']:.0%}{width}"


def _theirs(row: Row | None) -> str:
    if row is None or "macs_left" not in row:
        return "–" if row is None else "fails"
    return f"{row['macs_left']:.0%}{'' if _exact(row) else ', inexact'}"


def _spent(row: Row | None) -> str:
    return f"{row['seconds']:.0f}, {row['peak_mb']:,}" if row is not None and "seconds" in row else "–"


def _mark(row: Row | None) -> str:
    return "–" if row is None else MARKS.get(row["outcome"], str(row["outcome"]))
