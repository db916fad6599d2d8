"""A figure over the runs of a gate, as inline SVG: a point per run, and the limit. Colours come from the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from dwindle.bench.views.axes import Axis, line, picture, text

_TOP, _RIGHT, _BOTTOM, _LEFT = 26, 20, 30, 8
_ROOM = 0.15
"""The share of the figures' span that is left free above and below them."""


@dataclass(frozen=True)
class Point:
    """One run."""

    day: str
    commit: str
    value: float
    passed: bool


def trend_chart(
    points: Sequence[Point], limit: float | None, read: Callable[[float], str], width: int, height: int, name: str
) -> str:
    """The chart as an `<svg>`; `name` keeps its ids apart from those of others on the same page.

    points: one or more runs, the oldest first. read: a figure in words.
    """
    values = [point.value for point in points]
    shown = [*values, *([limit] if limit is not None else [])]
    low, high = min(shown), max(shown)
    room = (high - low) * _ROOM or abs(high) * 0.01 or 1.0
    x = Axis(0, max(len(points) - 1, 1), _LEFT + 6, width - _RIGHT, log=False)
    y = Axis(low - room, high + room, height - _BOTTOM, _TOP, log=False)
    places = [x(index) if len(points) > 1 else (_LEFT + width - _RIGHT) / 2 for index in range(len(points))]
    marks = [line(_LEFT, height - _BOTTOM, width - _RIGHT, height - _BOTTOM, "grid")]
    if limit is not None:
        marks.append(line(_LEFT, y(limit), width - _RIGHT, y(limit), "budget-line"))
        marks.append(text(_LEFT, 14, f"limit {read(limit)}", "label", "start"))
    path = " ".join(f"{place:.1f},{y(value):.1f}" for place, value in zip(places, values, strict=True))
    marks.append(f'<polyline class="path" points="{path}"/>')
    for index, (place, point) in enumerate(zip(places, points, strict=True)):
        last = index == len(points) - 1
        what = "" if point.passed else ", missed a limit"
        label = f"{point.day} {point.commit}: {read(point.value)}{what}"
        kind = f"{'last' if last else 'round'}{'' if point.passed else ' missed'}"
        marks.append(
            f'<circle class="{kind}" cx="{place:.1f}" cy="{y(point.value):.1f}" r="{5 if last else 3.5}">'
            f"<title>{escape(label)}</title></circle>"
        )
    marks.append(text(width - _RIGHT, 14, read(values[-1]), "kept", "end"))
    marks.append(text(_LEFT, height - 8, points[0].day, "tick", "start"))
    if len(points) > 1:
        marks.append(text(width - _RIGHT, height - 8, points[-1].day, "tick", "end"))
    summary = f"{len(points)} runs, from {read(values[0])} to {read(values[-1])}"
    return picture(marks, width, height, name, "The figure, run by run", summary)
