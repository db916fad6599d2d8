"""How a run is shown on stderr: drawn live on a terminal, and as a line per round anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dwindle.checkpoint import Round
from dwindle.compress.amc.view import curve_view, result_view
from dwindle.compress.request import Request
from dwindle.compress.watcher import Watcher
from dwindle.layers import Layer
from dwindle.metrics import ACCURACY, change, named
from dwindle.models.spec import TaskSpec
from dwindle.options import as_flags, flags
from dwindle.quantities import format_bytes, format_seconds

if TYPE_CHECKING:
    from dwindle.compress.amc.search import Result, Settings
    from dwindle.compress.forecast import Forecast


SEARCH = -2
"""The index of a round that stands for AMC's search, so that the remaining time is measured anew."""
FLAGS = flags(Request)


def watcher(console: Console, target: str) -> LiveWatcher | LineWatcher:
    """The watcher that suits what `console` writes to; `target` names the file whose bytes are shown."""
    return LiveWatcher(console, target) if console.is_terminal else LineWatcher(console, target)


class LineWatcher(Watcher):
    """One plain line per round: for logs and CI."""

    def __init__(self, console: Console, target: str) -> None:
        self.console, self.target = console, target
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
        self.console.print(as_flags(sentence, FLAGS), highlight=False, soft_wrap=True)


class LiveWatcher(LineWatcher):
    """A row per finished round, which scrolls with the terminal, over a bar of the whole run with the time left."""

    def __init__(self, console: Console, target: str) -> None:
        super().__init__(console, target)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]:.3f}  {task.fields[eta]}"),
            console=console,
        )
        self.task = self.bar.add_task("", total=None, loss=float("nan"), eta="")
        self.live = Live(console=console, refresh_per_second=8, transient=True)
        self.began, self.index = time.monotonic(), -1
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
            self.index, self.began = index, time.monotonic()
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
        self.live.console.print(as_flags(sentence, FLAGS), highlight=False, style="dim")

    def _left(self, spent: float, done: int, total: int | None) -> float | None:
        """Seconds to the end of the run, after `spent` seconds of its present round; None where that isn't known."""
        if not total or done < 2:
            return None
        per_round = self.history[-1].seconds if self.history else spent * total / done
        return spent * (total - done) / done + max(0, self.rounds - self.index) * per_round


def forecast_lines(forecast: Forecast) -> Iterator[str]:
    """A forecast in sentences: density, rounds and time, the file of each target, and whether it could be written."""
    length = "how long that takes isn't known, because the task has no `steps`"
    if forecast.seconds is not None:
        length = (
            f"{forecast.steps} optimizer steps, about {format_seconds(forecast.seconds)} of training on this machine"
        )
    yield f"density about {forecast.share:.1%} after {forecast.rounds} round{'s' * (forecast.rounds > 1)}; {length}"
    for size, benefit in zip(forecast.bytes, forecast.benefits, strict=True):
        smaller = f"{format_bytes(size.dense)} → {format_bytes(size.compressed)}"
        yield f"{size.target}: {smaller}, {size.dense / size.compressed:.1f}×; {benefit.sentence()}"
    for rehearsed in forecast.rehearsed:
        yield f"{rehearsed.target}: {rehearsed.sentence}"


NOTABLE_LOSS = 1.0
"""From this many points of the test metric on, or percent of changed answers, a loss is said in words."""


def loss_line(metrics: Mapping[str, float], metric: str) -> Text | None:
    """The line that says what a compression cost, and what to try; None where that is less than NOTABLE_LOSS."""
    changed, lost = change(metrics["test"], metric), metrics["dense_test"] - metrics["test"]
    if (lost if changed is None else changed) < NOTABLE_LOSS:
        return None
    if changed is None:
        said, more = f"the test metric fell by {lost:.2f} points. To lose less", "train longer (`epochs`)"
        option, rest = "max_drop", "prune less in each round (`prune_per_round`)"
    else:
        said, more = f"{changed:.2f}% of the answers changed. To change less", "calibrate on more (`calib_samples`)"
        option, rest = "max_change", "train with labels"
    remedies = (
        f"allow more bytes, MACs or weights; {more}; {rest}; or say what may be lost (`{option}`), and the smallest "
        "network that keeps to it is found"
    )
    return Text(as_flags(f"{said}: {remedies}", {**FLAGS, **flags(TaskSpec)}), style="red")


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


WIDTH = 32
"""The number of characters of a full bar."""


def layers_table(left: Sequence[Layer]) -> Table:
    """A bar per layer: output channels before and after a cut, and the share of the weights that is left."""
    widest = max((layer.before[0] for layer in left), default=1)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("layer", "channels", "", "weights left"):
        table.add_column(title, justify="right" if title in ("channels", "weights left") else "left")
    for layer in left:
        before, after = layer.before[0], layer.after[0]
        full, kept = (max(1, round(WIDTH * channels / widest)) for channels in (before, after))
        bar = Text("█" * kept).append("░" * (full - kept), style="dim")
        channels = f"{before} → {after}" if after != before else f"{before}"
        table.add_row(Text(layer.name), channels, bar, f"{layer.density:.1%}")
    return table
