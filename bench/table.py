"""Tables for the terminal: returned, not printed."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dwindle.bench.limits import Limit, Verdict
from dwindle.bench.result import DENSE, Bench
from dwindle.bench.wording import ABSENT, cells, format_ms, gaps, runtime_name
from dwindle.quantities import format_bytes


def bench_table(bench: Bench) -> RenderableType:
    """A row per file and runtime; below it what was not measured, and what made the run noisy."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("file", "runtime"):
        table.add_column(title, no_wrap=True)
    for title in ("size", "download", "smaller", "test", "change", "time", "best", "× dense"):
        table.add_column(title, justify="right")
    for row in bench.rows:
        shown = cells(row, bench.rows)
        table.add_row(
            f"{row.target} {row.role}",
            runtime_name(row),
            shown.bytes,
            shown.download,
            shown.smaller,
            Text(_with(shown.accuracy, shown.interval)),
            shown.change if row.role != DENSE else "",
            shown.time,
            format_ms(row.latency.min) if row.latency else ABSENT,
            Text(_with(shown.ratio, shown.ci95) if row.role != DENSE else ""),
            style="dim" if row.role == DENSE else "",
        )
    machine = bench.machine
    notes = [
        "size: installed bytes · download: deflated · smaller: than the dense fp32 ONNX file · brackets: 95% interval",
        "time: thread-CPU median of one inference, one thread · best: least wall time · × dense: time over the dense "
        "file's, side by side",
        f"on {machine.cpu}, {machine.cores} cores, {machine.system}",
    ]
    notes += [f"not measured: {figures} of {files}: {reason}" for files, figures, reason in gaps(bench.rows)]
    notes += [
        f"noisy: {row.target} {row.role}: {'; '.join(row.noise.reasons)}"
        for row in bench.rows
        if row.noise and not row.noise.quiet
    ]
    return Group(table, Text("\n".join(notes), style="dim"))


def gate_table(verdict: Verdict) -> RenderableType:
    """A row per limit and target, then the sentence."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "limit", "target", "allowed", "measured", ""):
        table.add_column(title, justify="right" if title in ("allowed", "measured") else "left")
    for row in verdict.rows:
        word, style = outcome(row)
        table.add_row(
            Text(word, style=style),
            row.name.replace("_", " "),
            row.target,
            amount(row, row.limit),
            ABSENT if row.measured is None else amount(row, row.measured),
            Text(row.reason or "", style="dim"),
        )
    return Group(table, Text(sentence(verdict), style="bold"))


def outcome(row: Limit) -> tuple[str, str]:
    """A word and its style."""
    if row.measured is None:
        return "unmeasured", "yellow"
    return ("pass", "green") if row.passed else ("miss", "red")


def amount(row: Limit, value: float) -> str:
    """A limit's value with its unit."""
    return f"{format_bytes(value)} ({value:,.0f})" if row.name == "max_size" else f"{value:.2f} points"


def sentence(verdict: Verdict) -> str:
    """The verdict, in one line."""
    if verdict.unmeasured:
        return f"{len(verdict.unmeasured)} of {len(verdict.rows)} limits could not be measured: not a pass"
    missed = sum(not row.passed for row in verdict.rows)
    return f"{missed} of {len(verdict.rows)} limits missed" if missed else "every limit holds"


def _with(figure: str, bounds: str) -> str:
    return f"{figure} [{bounds}]" if bounds else figure
