"""AMC's search on a terminal: the rewards of its episodes, and what it chose beside what it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dwindle.compress.amc.search import Result, Settings, Trial

WIDTH, HEIGHT = 60, 8


def result_view(result: Result) -> RenderableType:
    """The reward curve over the table of AMC, random search and uniform allocation."""
    return Group(curve_view(result.curve, result.settings), "", allocation_table(result))


def curve_view(rewards: Sequence[float], settings: Settings) -> Text:
    """Rewards of the episodes so far: • is the mean of a few neighbours, ─ the best up to there.

    `rewards` may be shorter than the search: the rest stays blank.
    """
    columns = min(WIDTH, settings.episodes)
    edges = [column * settings.episodes // columns for column in range(columns + 1)]
    means = [_mean(rewards[a:b]) for a, b in pairwise(edges) if rewards[a:b]]
    best = [max(rewards[: min(b, len(rewards))]) for b in edges[1 : len(means) + 1]]
    low, high = min(means, default=0.0), max(best, default=1.0)
    grid = [[" "] * columns for _ in range(HEIGHT)]
    for column, (mean, top) in enumerate(zip(means, best, strict=True)):
        grid[_row(top, low, high)][column] = "─"
        grid[_row(mean, low, high)][column] = "•"
    labels = [f"{high:.3f}", *[""] * (HEIGHT - 2), f"{low:.3f}"]
    lines = [f"{label:>8} ┤{''.join(cells)}" for label, cells in zip(labels, grid, strict=True)]
    start = round(settings.warmup / settings.episodes * columns)
    axis = "".join("┬" if column == start else "─" for column in range(columns))
    note = f"{settings.warmup} random episodes, then the agent's to {settings.episodes}"
    return Text("\n".join([f"{'reward':>8}", *lines, f"{'':>8} └{axis}", f"{'':>10}{note}"]), no_wrap=True)


def allocation_table(result: Result) -> Table:
    """What each layer keeps under each allocation, with what that costs and is worth."""
    trials = {"AMC": result.amc, "random": result.random, "uniform": result.uniform}
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("layer")
    table.add_column("weights" if result.currency == "weights" else "channels", justify="right")
    for name in trials:
        table.add_column(name, justify="right")
    for index, (layer, units) in enumerate(zip(result.names, result.units, strict=True)):
        shares = (f"{trial.kept[index] / units:.1%}" for trial in trials.values())
        table.add_row(layer, f"{units:,}", *shares, end_section=index == len(result.names) - 1)
    table.add_row(result.currency, f"{result.whole:,.0f}", *(_cost(trial, result) for trial in trials.values()))
    best = max(trial.reward for trial in trials.values())
    rewards = (Text(f"{trial.reward:.4f}", style="bold" if trial.reward == best else "") for trial in trials.values())
    table.add_row("reward, without retraining", "", *rewards)
    return table


def _cost(trial: Trial, result: Result) -> str:
    return f"{trial.cost / result.whole:.1%}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _row(value: float, low: float, high: float) -> int:
    """Returns the row of a reward in the chart; row 0 is at the top."""
    return round((HEIGHT - 1) * (high - value) / (high - low)) if high > low else 0
