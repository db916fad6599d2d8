"""Two checkpoints as one table for the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dwindle.bench.comparison import Change, Diff, Figure, Value
from dwindle.bench.views.wording import ABSENT, interval, signed
from dwindle.metrics import SQNR, WITHOUT_LABELS
from dwindle.quantities import format_bytes

_JUDGED = ("accuracy", *WITHOUT_LABELS)
_NAMES = {
    "density": "weights left",
    "macs": "MACs",
    "accuracy": "test accuracy",
    **{metric: f"test {metric}" for metric in WITHOUT_LABELS},
    "size": "installed",
    "download": "download",
    "ratio": "time / dense",
    "cost": "ARM64 instructions",
}


def diff_table(found: Diff) -> RenderableType:
    """A row per figure, and per file, layer and option that differ."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    short = Path(found.before).name, Path(found.after).name
    for title in (*(short if short[0] != short[1] else (found.before, found.after)), "change"):
        table.add_column(Text(title), justify="right", overflow="fold")
    for figure in found.figures:
        table.add_row(
            Text(_title(figure)), _value(figure, figure.before), _value(figure, figure.after), _change(figure)
        )
    of_files = ("files store their weights otherwise", found.stored)
    for heading, changes in (of_files, ("layers", found.layers), ("options", found.options)):
        if changes:
            table.add_row(Text(heading, style="bold"))
        for change in changes:
            table.add_row(
                Text(f"  {change.name}"), *map(Text, map(_words, (change.before, change.after))), _narrower(change)
            )
    notes = ["figures with a runtime are of the file on the test split; below them 95% intervals"]
    if found.networks[0] != found.networks[1]:
        notes.insert(0, f"these are different networks: {found.networks[0]}, and {found.networks[1]}")
    return Group(table, Text("\n".join(notes), style="dim"))


def _title(figure: Figure) -> str:
    name, target, runtime = _NAMES[figure.name], figure.target, figure.runtime
    if target is None:
        return f"{name}, in PyTorch" if figure.name in _JUDGED else name
    return f"{name}, {target}" + (f" in {runtime}" if runtime not in (None, target) else "")


def _value(figure: Figure, value: Value | None) -> str | Text:
    if value is None:
        return ABSENT
    if figure.name in ("size", "download"):
        return format_bytes(value.value)
    if figure.name in ("macs", "cost"):
        return f"{value.value / 1e6:,.2f}M"
    if figure.name == "density":
        return f"{value.value:.2%}"
    digits = 3 if figure.name == "ratio" else 2
    shown = f"{value.value:.{digits}f}"
    if value.interval is None:
        return shown
    return Text.assemble(shown, (f"\n{interval(value.interval, 3 if digits == 3 else 1)}", "dim"))


def _change(figure: Figure) -> str:
    if not (figure.before and figure.after):
        return ""
    before, after = figure.before.value, figure.after.value
    if figure.name in _JUDGED:
        return f"{signed(after - before)} {'dB' if figure.name == SQNR else 'points'}"
    return f"{after / before - 1:+.1%}".replace("-", "−") if before else ""


def _words(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _narrower(change: Change) -> str:
    """Of two shapes of a layer, how many weights the one has over the other."""
    if not (isinstance(change.before, tuple) and isinstance(change.after, tuple)):
        return ""
    before, after = (math.prod(shape) for shape in (change.before, change.after))
    return f"{after / before - 1:+.1%}".replace("-", "−")
