"""Tables for the terminal: returned, not printed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dwindle.bench.result import DENSE, PORTABLE, Bench, Operator, Predicted, Row
from dwindle.bench.verdict import Verdict
from dwindle.bench.views.cost_words import TITLE, cost_cells, legend
from dwindle.bench.views.predicted_words import predicted_cells, predicted_notes, predicted_title
from dwindle.bench.views.wording import (
    ABSENT,
    answers,
    cells,
    described,
    gaps,
    noisy,
    runtime_name,
)
from dwindle.metrics import ACCURACY
from dwindle.quantities import format_ms


def bench_table(bench: Bench) -> RenderableType:
    """A row per file and runtime; below it what was not measured, and what made the run noisy."""
    parts: list[RenderableType] = [_columns(show_header=True)]
    for (target, runtime), files in groupby(bench.rows, lambda row: (row.target, runtime_name(row))):
        table, rows = _columns(show_header=False), list(files)
        for row in rows:
            shown, against_dense = cells(row, bench.rows), row.role != DENSE
            table.add_row(
                f"  {row.role}",
                shown.bytes,
                _over(shown.download, shown.fetched),
                shown.smaller,
                _over(shown.accuracy, shown.interval),
                shown.change if against_dense else "",
                _over(shown.time, format_ms(row.latency.min) if row.latency else ""),
                _over(shown.ratio, shown.ci95) if against_dense else "",
            )
        parts += [Text.assemble((target, "bold"), f" in {runtime}"), table]
    parts += [*_answers(bench.rows), *operator_tables(bench.rows), *cost_table(bench.rows)]
    parts += predicted_table(bench.predicted)
    machine = bench.machine
    notes = [
        "size: installed bytes · download: deflated, or as the .zst named below it · smaller: than the target's dense "
        f"file · test: {_metrics(bench.rows)}on the test split, through the file, above its 95% interval · change: "
        "points against the dense file",
        "time: thread-CPU median of one inference on one thread, above the least wall time; where there is no such "
        "time, the wall median · × dense: over the dense file's, side by side, above its 95% interval",
        f"on {machine.cpu}, {machine.cores} cores, {machine.system}",
    ]
    notes += [f"not measured: {figures} of {files}: {reason}" for files, figures, reason in gaps(bench.rows)]
    notes += [f"noisy: {files}: {reasons}" for files, reasons in noisy(bench.rows)]
    return Group(*parts, Text("\n".join(notes), style="dim"))


def _metrics(rows: tuple[Row, ...]) -> str:
    found = dict.fromkeys(row.accuracy.metric for row in rows if row.accuracy)
    return "".join(f"{metric}, " for metric in found if metric != ACCURACY)


_OPERATORS = 8
"""Shown of a file, the slowest first; bench.json has them all."""


def operator_tables(rows: tuple[Row, ...]) -> list[RenderableType]:
    """The tables of the operators that take the time, of the rows that were profiled."""
    parts: list[RenderableType] = []
    for row in rows:
        if not row.operators:
            continue
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
        for width in (6, 8, 14, 34):
            table.add_column(width=width, no_wrap=True, justify="right" if width < 10 else "left")
        for one in row.operators[:_OPERATORS]:
            table.add_row(f"{one.share:.1%}", format_ms(one.ms), Text(one.kind), Text(one.name, style="dim"))
        left = row.operators[_OPERATORS:]
        if left:
            table.add_row(f"{sum(one.share for one in left):.1%}", "", f"{len(left)} more", "")
        title = Text.assemble((row.target, "bold"), f" {row.role}: operators by their share of the time")
        parts += [title, table, *_fallen_back(row.operators)]
    return parts


def _fallen_back(operators: tuple[Operator, ...]) -> list[RenderableType]:
    """Which operators the delegate did not take, where it took others."""
    places = dict.fromkeys(one.where for one in operators)
    slow = [one for one in operators if one.where == PORTABLE]
    if not slow or len(places) < 2:
        return []
    names = ", ".join(dict.fromkeys(one.kind for one in slow))
    line = f"{sum(one.share for one in slow):.1%} in operators that no delegate took: {names}"
    return [Padding(Text(line, style="yellow"), (0, 0, 0, 2))]


def cost_table(rows: tuple[Row, ...]) -> list[RenderableType]:
    """What was counted on an emulated ARM64 CPU, if anything was."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title, width in {"": 12, "instr.": 8, "× dense": 7, "MACs": 8, "× layers": 8, "sparse": 6, "apart": 6}.items():
        table.add_column(title, justify="right" if title else "left", width=width, no_wrap=True)
    for target, files in groupby((row for row in rows if row.cost), lambda row: row.target):
        table.add_row(Text(target, style="bold"))
        for row in files:
            if shown := cost_cells(row):
                table.add_row(
                    f"  {row.role}",
                    shown.instructions,
                    shown.ratio,
                    shown.macs,
                    shown.tiles,
                    shown.sparse,
                    shown.apart,
                )
    return [Text(TITLE, style="bold"), table, Text(legend(rows), style="dim")] if table.row_count else []


def predicted_table(predicted: Sequence[Predicted]) -> list[RenderableType]:
    """What a profile predicts of each file, if one was given."""
    if not predicted:
        return []
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for title, width in {"": 20, "predicted": 9, "interval": 20, "measured": 9, "ratio": 9}.items():
        table.add_column(title, justify="right" if title else "left", width=width, no_wrap=True)
    for one in predicted:
        shown = predicted_cells(one)
        name = Text.assemble((one.target, "bold"), f" {one.role}")
        table.add_row(name, shown.time, shown.interval, shown.measured, shown.ratio)
    notes = Text("\n".join(predicted_notes(predicted)), style="dim")
    return [Text(predicted_title(predicted), style="bold"), table, notes]


def _answers(rows: tuple[Row, ...]) -> list[RenderableType]:
    """What became of the classes and of the outputs."""
    lines = [Padding(Text(f"{files}: {said}", style="dim"), (0, 0, 0, 2)) for files, said in answers(rows)]
    return [Text("answers", style="bold"), *lines] if lines else []


_STYLES = {"pass": "green", "allowed": "yellow", "miss": "red", "unmeasured": "yellow"}


def gate_table(verdict: Verdict) -> RenderableType:
    """A row per limit and target, what the figures consist of, then the sentence."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "limit", "target", "allowed", "measured"):
        table.add_column(title, justify="right" if title in ("allowed", "measured") else "left", no_wrap=True)
    for row in verdict.rows:
        word = row.outcome
        table.add_row(
            Text(word, style=_STYLES[word]),
            Text(row.title),
            Text(row.subject),
            row.amount(row.limit),
            ABSENT if row.measured is None else row.amount(row.measured),
        )
    notes = [f"{row.title}, {row.subject}: {row.reason}" for row in verdict.rows if row.reason]
    notes += [f"{row.title}, {row.subject}: allowed: {row.allowed}" for row in verdict.rows if row.allowed]
    notes += [line for name, found in verdict.files.items() for line in described(name, found)]
    return Group(table, *(Text(note, style="dim") for note in notes), Text(verdict.sentence, style="bold"))


_WIDTHS = {"": 12, "size": 7, "download": 8, "smaller": 7, "test": 9, "change": 6, "time": 7, "× dense": 11}
"""Of the columns: alike under every target's title, and together within a terminal of 80."""


def _columns(*, show_header: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", show_header=show_header)
    for title, width in _WIDTHS.items():
        table.add_column(title, justify="right" if title else "left", width=width, no_wrap=True)
    return table


def _over(figure: str, beside: str) -> Text:
    return Text.assemble(figure, (f"\n{beside}", "dim")) if beside else Text(figure)
