"""What commands print of several forecasts, of a loss, and of a network's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dwindle.compress.progress import FLAGS
from dwindle.layers import Layer
from dwindle.metrics import NOTABLE_LOSS, change
from dwindle.models.spec import TaskSpec
from dwindle.options import as_flags, flags
from dwindle.quantities import format_bytes, format_seconds

if TYPE_CHECKING:
    from dwindle.compress.forecast import Forecast


def _points(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.2f} points"


def curve_table(forecasts: Sequence[Forecast]) -> RenderableType:
    """A line per budget that `curve` tried, and what the rehearsal found; the last line says how to choose one."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    sizes = forecasts[0].bytes
    untrained = ["untrained loss"] if any(one.untrained_loss is not None for one in forecasts) else []
    for title in ("density", *(size.target for size in sizes), "rounds", "training", *untrained):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row("dense", *(format_bytes(size.dense) for size in sizes), "0", "")
    for forecast in forecasts:
        table.add_row(
            f"{forecast.share:.0%}",
            *(format_bytes(size.compressed) for size in forecast.bytes),
            str(forecast.rounds),
            "" if forecast.seconds is None else format_seconds(forecast.seconds),
            *(_points(forecast.untrained_loss) for _ in untrained),
        )
    rehearsed = [Text(f"{one.target}: {one.sentence}") for one in forecasts[0].rehearsed]
    return Group(
        table, *rehearsed, Text("next: give one of these as --size or --density, or what may be lost as --max-drop")
    )


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
