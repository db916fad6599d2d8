"""How a run is shown: drawn live on a terminal and in a notebook, and as a line per round anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.spinner import Spinner
from rich.table import Table

from dwindle.compress.amc.view import curve_view, result_view
from dwindle.compress.request import Request
from dwindle.compress.watcher import Watcher
from dwindle.metrics import ACCURACY, named
from dwindle.options import as_flags, flags
from dwindle.quantities import format_bytes, format_seconds
from dwindle.record import Round

if TYPE_CHECKING:
    from dwindle.compress.amc.search import Result, Settings


SEARCH = -2
"""The index of a round that stands for AMC's search, so that the remaining time is measured anew."""
FLAGS = flags(Request)
PREPARING = "building the network and its files, before anything is trained"
"""What is shown until the first step: it may take half a minute."""


def drawing(console: Console, target: str, flags: Mapping[str, str] = FLAGS) -> LiveWatcher | LineWatcher:
    """The watcher that suits what `console` writes to: a terminal, a notebook, or neither.

    target: names the file whose bytes are shown. flags: what options are called in sentences; empty: as in Python.
    """
    live = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)  # which rich draws by
    return LiveWatcher(console, target, flags) if live else LineWatcher(console, target, flags)


class LineWatcher(Watcher):
    """One plain line per round: for logs and CI."""

    def __init__(self, console: Console, target: str, flags: Mapping[str, str] = FLAGS) -> None:
        self.console, self.target, self.flags = console, target, flags
        self.history: tuple[Round, ...] = ()
        self.rounds = 0

    def __enter__(self) -> LineWatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        self.history, self.rounds = history, rounds
        if history:
            self.note(f"resuming after round {history[-1].index} of about {rounds}")

    def finished(self, record: Round, rounds: int) -> None:
        self.history, self.rounds = (*self.history, record), rounds
        cells = row(record, self.history[0])
        text = ", ".join(f"{title} {cell}" for title, cell in zip(COLUMNS[1:], cells[1:], strict=True) if cell)
        left = (rounds - record.index) * record.seconds
        self.note(f"round {record.index} of about {rounds}: {text}; about {format_seconds(left)} left")

    def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
        done = len(rewards)
        if judged == 1:
            self.note(f"AMC judges {settings.episodes} random allocations first, to have something to compare with")
        elif done and (done % 25 == 0 or done == settings.episodes):
            self.note(f"AMC: episode {done} of {settings.episodes}, best reward {max(rewards):.3f}")

    def allocation(self, result: Result) -> None:
        self.console.print(result_view(result))

    def note(self, sentence: str) -> None:
        self.console.print(as_flags(sentence, self.flags), highlight=False, soft_wrap=True)


class LiveWatcher(LineWatcher):
    """A row per finished round, which scrolls with the terminal, over a bar of the whole run with the time left."""

    def __init__(self, console: Console, target: str, flags: Mapping[str, str] = FLAGS) -> None:
        super().__init__(console, target, flags)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]:.3f}  {task.fields[eta]}"),
            console=console,
        )
        self.task = self.bar.add_task("", total=None, loss=float("nan"), eta="")
        self.live = Live(Spinner("dots", PREPARING), console=console, refresh_per_second=8, transient=True)
        self.began, self.index, self.first = time.monotonic(), -1, 0
        self.known = 0
        """The number of AMC's allocations that an interrupted run had already judged."""

    def __enter__(self) -> LiveWatcher:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        super().begin(history, rounds)
        if history:
            self.live.console.print(rounds_table(history, self.target))
        self.live.update(self.bar)

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if index != self.index:
            self.index, self.began, self.first = index, time.monotonic(), done
        what = f"round {index} of about {self.rounds}" if index else "training the dense network"
        if total:
            what += f", step {done} of {total}"
        spent = time.monotonic() - self.began
        left = self._left(spent, done, total)
        if left is None:
            self.bar.update(self.task, description=what, completed=0, total=None, loss=loss, eta="")
            return
        gone = sum(record.seconds for record in self.history) + spent
        eta = f"about {format_seconds(left)} left"
        self.bar.update(self.task, description=what, completed=gone, total=gone + left, loss=loss, eta=eta)

    def finished(self, record: Round, rounds: int) -> None:
        self.history, self.rounds = (*self.history, record), rounds
        self.live.console.print(rounds_table(self.history, self.target, only=record))
        self.live.update(self.bar)

    def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
        now = time.monotonic()
        if self.index != SEARCH:
            self.index, self.began, self.known = SEARCH, now, judged
        line = f"AMC judges random allocations, to compare with: {judged - 1} of {settings.episodes}"
        if rewards:
            line = f"AMC searches each layer's share: episode {len(rewards)} of {settings.episodes}"
        if judged > self.known:
            seconds = (now - self.began) / (judged - self.known) * (settings.allocations - judged)
            line += f", about {format_seconds(seconds)} left"
        curve = [curve_view(rewards, settings)] if rewards else []
        self.live.update(Group(*curve, line))

    def allocation(self, result: Result) -> None:
        self.live.console.print(result_view(result))
        self.live.update(self.bar)

    def note(self, sentence: str) -> None:
        self.live.console.print(as_flags(sentence, self.flags), highlight=False, style="dim")

    def _left(self, spent: float, done: int, total: int | None) -> float | None:
        """Seconds to the end of the run, `spent` seconds after the first step that this process did of its present
        round; None where that isn't known."""
        if not total or done == self.first:
            return None
        per_step = spent / (done - self.first)
        per_round = self.history[-1].seconds if self.history else per_step * total
        return per_step * (total - done) + max(0, self.rounds - self.index) * per_round


COLUMNS = ("round", "density", "bytes", "smaller", "validation", "loss", "time")


def row(record: Round, dense: Round) -> tuple[str, ...]:
    """The cells of one round in a table with COLUMNS."""
    smaller = f"{dense.bytes / record.bytes:.1f}×" if record.index and record.bytes and dense.bytes else ""
    against = f" ({record.validation - dense.validation:+.2f})".replace("-", "−") if record.index else ""
    return (
        str(record.index) if record.index else "dense",
        f"{record.density:.1%}",
        format_bytes(record.bytes) if record.bytes else "",
        smaller,
        f"{record.validation:.2f}" + against,
        f"{record.loss:.3f}" if record.loss is not None else "",
        format_seconds(record.seconds),
    )


CELLS = ("dense", "100.0%", "999.99 KB", "99.9×", "100.00 (−99.99)", "0.000", "10 h 59 min")
"""The widest cells that are likely, so that rows which are printed one by one stand in columns."""


def rounds_table(history: tuple[Round, ...], target: str, only: Round | None = None, metric: str = ACCURACY) -> Table:
    """The history of a run: a row per round, differences against the dense round in brackets.

    only: the one round whose row is wanted. The header stands over that of the dense round. metric: what validation is
    judged by.
    """
    table = Table(box=None, padding=(0, 1), header_style="bold", show_header=only is None or not only.index)
    for title, cell in zip(COLUMNS, CELLS, strict=True):
        titled = f"{target} bytes" if title == "bytes" else named(title, metric) if title == "validation" else title
        table.add_column(titled, justify="right", min_width=max(len(titled), len(cell)), no_wrap=True)
    for record in (only,) if only else history:
        table.add_row(*row(record, history[0]), style="" if record.index else "dim")
    return table
