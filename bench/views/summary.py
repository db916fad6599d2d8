"""What bench found, in brief: whether the budget holds, what was lost, whether it got faster; then a line per file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dwindle.bench.result import COMPRESSED, Row, drop
from dwindle.bench.views.wording import ABSENT, EVEN, cells, interval, signed
from dwindle.metrics import NOTABLE_LOSS, SQNR, change
from dwindle.quantities import format_bytes


@dataclass(frozen=True)
class Goal:
    """What a checkpoint was made for."""

    target: str
    size: int | None = None
    """In bytes of the target's file; None where no such budget was given."""
    max_drop: float | None = None
    """In points; None where no loss was named, and then NOTABLE_LOSS is too much."""


@dataclass(frozen=True)
class Finding:
    """One of the things that people ask first."""

    line: str
    good: bool
    remedy: str = ""
    """What to do where it isn't good."""


def main_row(rows: Sequence[Row], target: str) -> Row | None:
    """The compressed file of the target that a checkpoint was made for, else the first; None where there is none."""
    compressed = [row for row in rows if row.role == COMPRESSED]
    return next((row for row in compressed if row.target == target), compressed[0] if compressed else None)


def findings(rows: Sequence[Row], goal: Goal) -> list[Finding]:
    """Size, accuracy and speed of the file that a checkpoint was made for; what wasn't measured is left out."""
    row = main_row(rows, goal.target)
    if row is None:
        return []
    return [found for found in (_size(row, rows, goal), _accuracy(row, rows, goal), _speed(row)) if found]


def _size(row: Row, rows: Sequence[Row], goal: Goal) -> Finding:
    line = f"{row.target} file: {format_bytes(row.artifact.bytes)}"
    if smaller := cells(row, rows).smaller.strip(ABSENT):
        line += f", {smaller} smaller than dense"
    if goal.size is None or row.target != goal.target:
        return Finding(line, good=True)
    held = row.artifact.bytes <= goal.size
    line += f", {'within' if held else 'more than'} the {format_bytes(goal.size)} asked for"
    return Finding(line, held, "export it as the budget was counted, without `--precision` and `--packing`")


def _accuracy(row: Row, rows: Sequence[Row], goal: Goal) -> Finding | None:
    lost = drop(row, rows)
    if lost is None or row.accuracy is None:
        return None
    metric = row.accuracy.metric
    unit = "dB" if metric == SQNR else "points"
    line = f"test {metric}: {row.accuracy.value:.2f}, {signed(-lost)} {unit} against the dense file"
    changed = change(row.accuracy.value, metric)
    allowed = NOTABLE_LOSS if goal.max_drop is None else goal.max_drop
    remedy = "allow more bytes, or train longer (`--epochs`); `--max-drop` finds the smallest file that loses no more"
    return Finding(line, (lost if changed is None else changed) <= allowed, remedy)


def _speed(row: Row) -> Finding | None:
    if row.compare is None:
        return None
    low, high = row.compare.ci95
    said = "faster" if high < 1 - EVEN else "slower" if low > 1 + EVEN else "as fast as dense"
    line = f"time: {row.compare.ratio:.2f} of the dense file's in {row.runtime.place} ({interval((low, high), 2)})"
    remedy = "where speed matters, remove channels, or what this runtime computes faster: `--granularity fast`"
    return Finding(f"{line}: {said}", low <= 1 + EVEN, remedy)


def next_step(found: Sequence[Finding], net: str) -> str:
    """What to do now: the remedy of the first finding that isn't good, else how to hold what was reached."""
    return next(
        (one.remedy for one in found if not one.good),
        f"hold what is reached in CI: `dwindle gate {net} --init budget.toml` writes its limits",
    )


_COLUMNS = ("size", "smaller", "test", "change", "time", "× dense", "load", "memory")


def summary_table(rows: Sequence[Row], goal: Goal) -> Table:
    """A line per compressed file and runtime, those of the goal's target first; red where it lost."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("", *_COLUMNS):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    compressed = sorted((row for row in rows if row.role == COMPRESSED), key=lambda row: row.target != goal.target)
    several = {row.target for row in compressed if [one.target for one in compressed].count(row.target) > 1}
    for row in compressed:
        shown = cells(row, rows)
        table.add_row(
            Text.assemble((row.target, "bold"), f" in {row.runtime.place}" if row.target in several else ""),
            shown.bytes,
            shown.smaller,
            shown.accuracy,
            Text(shown.change, style="red" if shown.worse else ""),
            shown.time,
            Text(shown.ratio, style="red" if shown.slower else ""),
            shown.load,
            shown.memory,
        )
    return table


def bench_summary(rows: Sequence[Row], goal: Goal, net: str) -> RenderableType:
    """The findings, one next step, and the table. `net` is the checkpoint's path, for the command to run next."""
    found = findings(rows, goal)
    lines = [Text(one.line, style="" if one.good else "red") for one in found]
    step = Text.assemble(("next: ", "bold"), next_step(found, net)) if found else Text("no file was measured")
    compressed = [(row.target, cells(row, rows)) for row in rows if row.role == COMPRESSED]
    fetched = [(target, shown) for target, shown in compressed if shown.fetched]
    below = sorted({f"{target}: {shown.download} to download, as .{shown.fetched}" for target, shown in fetched})
    if any(ABSENT in (shown.accuracy, shown.time, shown.memory) for _, shown in compressed):
        below.append(f"{ABSENT}: not measured; -v says why")
    return Group(*lines, step, Text(""), summary_table(rows, goal), *(Text(one, style="dim") for one in below))
