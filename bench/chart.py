"""The frontier as inline SVG: accuracy against size, a point per round. Colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from dwindle.checkpoint import Round
from dwindle.quantities import format_bytes

TOP, RIGHT, BOTTOM, LEFT = 44, 16, 48, 44


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def frontier(history: Sequence[Round], budget: int | None, width: int, height: int, name: str) -> str:
    """The chart as an `<svg>`; `name` keeps its ids apart from those of another on the same page.

    Sizes where every round has them, densities otherwise; both on a log scale, since rounds remove shares.
    """
    in_bytes = all(record.bytes for record in history)
    sizes = [float(record.bytes or 0) if in_bytes else record.density for record in history]
    scores = [record.validation for record in history]
    read: Callable[[float], str] = format_bytes if in_bytes else lambda share: f"{share:.3g}"
    limits = [float(budget)] if budget and in_bytes else []
    x = Axis(min(sizes + limits) / 1.15, max(sizes + limits) * 1.15, LEFT, width - RIGHT, log=True)
    ticks_y = _linear_ticks(min(scores), max(scores))
    y = Axis(ticks_y[0], ticks_y[-1], height - BOTTOM, TOP, log=False)
    digits = 0 if ticks_y[1] - ticks_y[0] >= 1 else 1 if ticks_y[1] - ticks_y[0] >= 0.1 else 2

    marks = [_text(0, 14, "validation, %", "axis", "start")]
    for tick in ticks_y:
        marks.append(_line(LEFT, y(tick), width - RIGHT, y(tick), "grid"))
        marks.append(_text(LEFT - 8, y(tick) + 4, f"{tick:.{digits}f}", "tick", "end"))
    for tick in _log_ticks(x, width):
        marks.append(_line(x(tick), height - BOTTOM, x(tick), height - BOTTOM + 5, "grid"))
        label = format_bytes(tick).replace(".0 ", " ").replace(".00 ", " ") if in_bytes else f"{tick:g}"
        marks.append(_text(x(tick), height - BOTTOM + 18, label, "tick", "middle"))
    what = "bytes of the file that would ship" if in_bytes else "density: share of the weights left"
    marks.append(_text(width - RIGHT, height - 6, f"{what}, log scale", "axis", "end"))

    marks.append(_line(LEFT, y(scores[0]), width - RIGHT, y(scores[0]), "dense-line"))
    for limit in limits:
        marks.append(_line(x(limit), TOP, x(limit), height - BOTTOM, "budget-line"))
        side = "start" if x(limit) < width / 2 else "end"
        marks.append(_text(x(limit), TOP - 8, f"budget {read(limit)}", "label", side))
    path = " ".join(f"{x(size):.1f},{y(score):.1f}" for size, score in zip(sizes, scores, strict=True))
    marks.append(f'<polyline class="path" points="{path}"/>')
    last = len(history) - 1
    for index, record in enumerate(history):
        kind = "dense" if index == 0 else "last" if index == last else "round"
        label = f"{'dense' if index == 0 else f'round {record.index}'}: {read(sizes[index])}, {scores[index]:.2f}%"
        marks.append(
            f'<circle class="{kind}" cx="{x(sizes[index]):.1f}" cy="{y(scores[index]):.1f}" '
            f'r="{3.5 if kind == "round" else 6}"><title>{escape(label)}</title></circle>'
        )
    above = len(scores) == 1 or scores[1] <= scores[0]  # on the side that the path leaves free
    marks.append(_text(width - RIGHT, y(scores[0]) + (-10 if above else 20), f"dense {scores[0]:.2f}", "label", "end"))
    if last:
        kept = f"{read(sizes[-1])}, {scores[-1]:.2f}"
        low = y(scores[-1]) > height - BOTTOM - 20  # among the ticks of the axis
        marks.append(_text(x(sizes[-1]) + 12, y(scores[-1]) + (-12 if low else 14), kept, "kept", "start"))
    summary = (
        f"{len(history)} points from {read(sizes[0])} at {scores[0]:.2f}% to {read(sizes[-1])} at {scores[-1]:.2f}%"
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">Accuracy against size, round by round</title>'
        f'<desc id="{name}-d">{escape(summary)}</desc>{"".join(marks)}</svg>'
    )


def _linear_ticks(low: float, high: float) -> list[float]:
    """Four to seven round values that enclose both."""
    span = max(high - low, 0.5)
    step = next(s * 10.0**e for e in range(-2, 9) for s in (1, 2, 5) if span / (s * 10.0**e) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _log_ticks(axis: Axis, width: int) -> list[float]:
    """1, 2, 5 times powers of ten within the axis, as few as the width has room for."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    for leads in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [lead * 10.0**power for power in powers for lead in leads]
        inside = [tick for tick in ticks if axis.low <= tick <= axis.high]
        if len(inside) * 80 <= width and len(inside) >= 2:
            return inside
    return [axis.low, axis.high]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, content: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
