"""The table of this study, from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
        f"- {len(cuts)} of {len(names)} networks were tried: {sum(map(_halved, cuts))} were cut to half of their "
        f"multiply-accumulates, {sum(_halved(row) and not row['inexact'] for row in cuts)} of them exactly"
    ]
    reached = [row for row in theirs if _halved(row)]
    beside = [row for row in cuts if (row["network"], "torch-pruning", "channels") in by]
    lines.append(
        f"- torch-pruning, run on {_families(names, by, 'torch-pruning')}: {len(reached)} to half, "
        f"{sum(map(_exact, reached))} of them exactly; {sum(map(_halved, beside))} of the same by dwindle. It is told "
        "to keep the layers that make the outputs and an attention's queries, keys and values, and of each of the "
        "others to remove the same share"
        if theirs
        else "- not run yet: torch-pruning"
    )
    written = [target for target in TARGETS if _done(names, by, target)]
    for target in written:
        made = [tuple(by.get((name, target, column)) for column in ("channels", "sparse", "plain")) for name in names]
        several = [rows for rows in made if all(rows)]
        ours, plain = [all(map(_good, rows[:2])) for rows in several], [_good(rows[2]) for rows in several]
        lost = sum(theirs and not mine for mine, theirs in zip(ours, plain, strict=True))
        lines.append(
            f"- {target}, written of {_families(names, by, target)}: {sum(ours)} as right files, both with half their "
            "channels' work and with a fifth of their weights; the plain converter makes "
            f"{sum(plain)} of the dense networks, {lost} of which are missing among ours"
        )
    if absent := [target for target in TARGETS if target not in written]:
        lines.append(f"- not run yet: files of {', '.join(absent)}")
    columns = ["network", "MACs left", "s, MB", *(["torch-pruning"] if theirs else []), *written]
    lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name in names:
        cut = by.get((name, "cut", "channels"))
        cells = {"MACs left": _cut(cut), "s, MB": _spent(cut)}
        cells["torch-pruning"] = _theirs(by.get((name, "torch-pruning", "channels")))
        for target in written:
            marks = (_mark(by.get((name, target, column))) for column in ("channels", "sparse", "plain"))
            cells[target] = " ".join(marks)
        if any(set(cells[column]) - {"–", " "} for column in columns[1:]):
            lines.append(f"| {name} | {' | '.join(cells[column] for column in columns[1:])} |")
    explained = (
        " A target's cell: channels, weights at 20%, the plain converter on the dense network; ✓ outputs within "
        "tolerance, – not made yet."
    )
    lines += [
        "",
        "MACs left: `~` where only inexact cuts get there, with the widths' multiple where it isn't 8. Seconds are CPU "
        f"time; MB the peak of the process, the network and PyTorch included.{explained if written else ''}",
        "",
        "What is said of the others:",
        "",
    ]
    lines += [f"- {row['network']}, {row['part']}, {row['column']}: {row['said']}" for row in rows if _tells(row)]
    return "\n".join(lines) + "\n"


def _done(names: Sequence[str], by: Mapping[tuple[str, str, str], Row], part: str) -> list[str]:
    """The networks that have all columns of a part."""
    columns = ("channels",) if part == "torch-pruning" else ("channels", "sparse", "plain")
    return [name for name in names if all((name, part, column) in by for column in columns)]


def _families(names: Sequence[str], by: Mapping[tuple[str, str, str], Row], part: str) -> str:
    """How many networks have all columns of a part, and where they come from unless they are all: `5 of 95 networks
    (timm 5 of 40)`."""
    done = _done(names, by, part)
    every, some = (Counter(name.partition(":")[0] for name in which) for which in (names, done))
    told = ", ".join(f"{family} {some[family]} of {count}" for family, count in every.items() if some[family])
    none = ", ".join(family for family in every if not some[family])
    if len(done) == len(names):
        return f"all {len(names)} networks"
    return f"{len(done)} of {len(names)} networks ({told}{f'; none of {none}' if none else ''})"


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
