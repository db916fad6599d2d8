"""What charts of accuracy against size share: scales, ticks and the pieces of an inline SVG. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from dwindle.bench.stats import accuracy_interval
from dwindle.quantities import format_bytes
from dwindle.record import Round

TOP, RIGHT, BOTTOM, LEFT = 44, 16, 48, 44
LEAST_POINTS = 5.0
"""The least that an axis of percentages spans, in points: over less, a few samples look like a roller coaster."""


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


@dataclass(frozen=True)
class Plane:
    """Sizes on a log scale, since rounds remove shares, against scores."""

    x: Axis
    y: Axis
    read: Callable[[float], str]
    """A size, in words."""
    marks: list[str]
    """Both axes, drawn."""


def plane(sizes: Sequence[float], scores: Sequence[float], in_bytes: bool, width: int, height: int) -> Plane:
    """Room for all of these; sizes are bytes, or densities, and scores percentages or decibels."""
    read: Callable[[float], str] = format_bytes if in_bytes else lambda share: f"{share:.3g}"
    x = Axis(min(sizes) / 1.15, max(sizes) * 1.15, LEFT, width - RIGHT, log=True)
    ticks_y = _linear_ticks(*_widened(min(scores), max(scores)))
    y = Axis(ticks_y[0], ticks_y[-1], height - BOTTOM, TOP, log=False)
    digits = 0 if ticks_y[1] - ticks_y[0] >= 1 else 1 if ticks_y[1] - ticks_y[0] >= 0.1 else 2
    marks = [text(0, 14, "validation, %", "axis", "start")]
    for tick in ticks_y:
        marks.append(line(LEFT, y(tick), width - RIGHT, y(tick), "grid"))
        marks.append(text(LEFT - 8, y(tick) + 4, f"{tick:.{digits}f}", "tick", "end"))
    for tick in _log_ticks(x, width):
        marks.append(line(x(tick), height - BOTTOM, x(tick), height - BOTTOM + 5, "grid"))
        label = format_bytes(tick).replace(".0 ", " ").replace(".00 ", " ") if in_bytes else f"{tick:g}"
        marks.append(text(x(tick), height - BOTTOM + 18, label, "tick", "middle"))
    what = "bytes of the file that would ship" if in_bytes else "density: share of the weights left"
    marks.append(text(width - RIGHT, height - 6, f"{what}, log scale", "axis", "end"))
    return Plane(x, y, read, marks)


def picture(marks: Sequence[str], width: int, height: int, name: str, title: str, summary: str) -> str:
    """The `<svg>`; `name` keeps its ids apart from those of another on the same page."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(summary)}</desc>{"".join(marks)}</svg>'
    )


def interval(record: Round) -> tuple[float, float] | None:
    """The 95% interval of a round's accuracy, in points; None where it isn't known of how many samples it is."""
    return accuracy_interval(record.validation, record.samples) if record.samples else None


def accuracies(rounds: Sequence[Round]) -> list[float]:
    """All that an axis of accuracies must have room for: those of the rounds, and the ends of their intervals."""
    return [score for record in rounds for score in (record.validation, *(interval(record) or ()))]


def band(x: Axis, y: Axis, rounds: Sequence[tuple[float, Round]], kind: str) -> list[str]:
    """A polygon about the intervals of rounds, each given with its size; nothing where fewer than two have any."""
    ends = [(x(size), *map(y, found)) for size, record in rounds if (found := interval(record))]
    if len(ends) < 2:
        return []
    around = [(at, high) for at, _, high in ends] + [(at, low) for at, low, _ in reversed(ends)]
    return [f'<polygon class="{kind}" points="{" ".join(f"{at:.1f},{end:.1f}" for at, end in around)}"/>']


def said(record: Round) -> str:
    """A round's accuracy with its interval, in words."""
    ends = interval(record)
    return f"{record.validation:.2f}%" + (f" (95%: {ends[0]:.1f}–{ends[1]:.1f})" if ends else "")


def _widened(low: float, high: float) -> tuple[float, float]:
    """Both, at least LEAST_POINTS apart, about their middle but no higher than 100 where they aren't higher."""
    if high - low >= LEAST_POINTS or high <= 1:  # a metric from 0 to 1 is no percentage
        return low, high
    top = (low + high + LEAST_POINTS) / 2
    top = max(high, min(top, 100.0) if high <= 100 else top)
    return top - LEAST_POINTS, top


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


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, content: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
