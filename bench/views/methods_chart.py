"""The frontiers of several checkpoints in one inline SVG: a colour and a shape per method, a path per checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dwindle.bench.views.axes import accuracies, band, line, picture, plane, said
from dwindle.record import Round

KINDS = 6
"""Colours and shapes that the page has; a seventh method gets the first's again."""


@dataclass(frozen=True)
class Series:
    """One checkpoint's rounds."""

    name: str
    method: str
    history: tuple[Round, ...]


def methods(series: Sequence[Series]) -> list[str]:
    """In the order in which they come, which is that of their colours."""
    return list(dict.fromkeys(one.method for one in series))


def in_bytes(series: Sequence[Series]) -> bool:
    """Whether every round of all has a size, and not a density alone."""
    return all(record.bytes for one in series for record in one.history)


def size(record: Round, counted: bool) -> float:
    return float(record.bytes or 0) if counted else record.density


def best(series: Sequence[Series]) -> set[tuple[str, int]]:
    """The rounds, by checkpoint and index, that no other beats in size and accuracy at once."""
    counted = in_bytes(series)
    rounds = [
        (one.name, record.index, size(record, counted), record.validation) for one in series for record in one.history
    ]
    return {
        (name, index)
        for name, index, small, score in rounds
        if not any(
            other <= small and better >= score and (other, better) != (small, score) for _, _, other, better in rounds
        )
    }


def methods_chart(series: Sequence[Series], width: int, height: int, name: str) -> str:
    """The chart, as `chart.frontier` draws one checkpoint's; points are larger where nothing is smaller and better."""
    counted, order, frontier = in_bytes(series), methods(series), best(series)
    rounds = [record for one in series for record in one.history]
    drawn = plane([size(record, counted) for record in rounds], accuracies(rounds), counted, width, height)
    kinds = [f"k{order.index(one.method) % KINDS}" for one in series]
    marks = list(drawn.marks)
    for one, kind in zip(series, kinds, strict=True):
        sized = [(size(record, counted), record) for record in one.history]
        marks += band(drawn.x, drawn.y, sized, f"band {kind}")
    for one, kind in zip(series, kinds, strict=True):
        places = [(drawn.x(size(record, counted)), drawn.y(record.validation)) for record in one.history]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        marks.append(f'<polyline class="{kind}" points="{path}"/>')
        for record, (x, y) in zip(one.history, places, strict=True):
            what = f"round {record.index}" if record.index else "dense"
            label = f"{one.method}, {one.name}, {what}: {drawn.read(size(record, counted))}, {said(record)}"
            large = (one.name, record.index) in frontier
            marks.append(mark(kind, x, y, 6.0 if large else 3.5, label))
    counts = ", ".join(f"{one.name} ({one.method}): {len(one.history)} rounds" for one in series)
    return picture(marks, width, height, name, "Accuracy against size by method", counts)


def mark(kind: str, x: float, y: float, r: float, label: str) -> str:
    """A circle, square, triangle or diamond: not by colour alone are methods told apart."""
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.15 * r:.2f} {2 * r:.2f}h{-2.3 * r:.2f}z",
        f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.2f} {1.3 * r:.2f}l{-1.3 * r:.2f} {1.3 * r:.2f}"
        f"l{-1.3 * r:.2f} {-1.3 * r:.2f}z",
    )
    shape = shapes[int(kind[1:]) % len(shapes)]
    return f'<path class="mark {kind}" d="{shape}"><title>{escape(label)}</title></path>'


def sign(kind: str) -> str:
    """A method's mark for a legend."""
    drawn = line(0, 8, 16, 8, kind) + mark(kind, 8, 8, 5, "")
    return f'<svg class="sign" viewBox="0 0 16 16" aria-hidden="true">{drawn}</svg>'
