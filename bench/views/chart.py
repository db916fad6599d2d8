"""The frontier as inline SVG: accuracy against size, a point per round. Colours come from the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dwindle.bench.views.axes import BOTTOM, LEFT, RIGHT, TOP, accuracies, band, line, picture, plane, said, text
from dwindle.record import Round


def frontier(history: Sequence[Round], budget: int | None, width: int, height: int, name: str) -> str:
    """The chart as an `<svg>`; `name` keeps its ids apart from those of another on the same page.

    Sizes where every round has them, densities otherwise; both on a log scale, since rounds remove shares.
    """
    in_bytes = all(record.bytes for record in history)
    sizes = [float(record.bytes or 0) if in_bytes else record.density for record in history]
    scores = [record.validation for record in history]
    limits = [float(budget)] if budget and in_bytes else []
    drawn = plane(sizes + limits, accuracies(history), in_bytes, width, height)
    x, y, read, marks = drawn.x, drawn.y, drawn.read, drawn.marks

    marks += band(x, y, list(zip(sizes, history, strict=True)), "band")
    marks.append(line(LEFT, y(scores[0]), width - RIGHT, y(scores[0]), "dense-line"))
    for limit in limits:
        marks.append(line(x(limit), TOP, x(limit), height - BOTTOM, "budget-line"))
        side = "start" if x(limit) < width / 2 else "end"
        marks.append(text(x(limit), TOP - 8, f"budget {read(limit)}", "label", side))
    path = " ".join(f"{x(size):.1f},{y(score):.1f}" for size, score in zip(sizes, scores, strict=True))
    marks.append(f'<polyline class="path" points="{path}"/>')
    last = len(history) - 1
    for index, record in enumerate(history):
        kind = "dense" if index == 0 else "last" if index == last else "round"
        label = f"{'dense' if index == 0 else f'round {record.index}'}: {read(sizes[index])}, {said(record)}"
        marks.append(
            f'<circle class="{kind}" cx="{x(sizes[index]):.1f}" cy="{y(scores[index]):.1f}" '
            f'r="{3.5 if kind == "round" else 6}"><title>{escape(label)}</title></circle>'
        )
    above = len(scores) == 1 or scores[1] <= scores[0]  # on the side that the path leaves free
    marks.append(text(width - RIGHT, y(scores[0]) + (-10 if above else 20), f"dense {scores[0]:.2f}", "label", "end"))
    if last:
        kept = f"{read(sizes[-1])}, {scores[-1]:.2f}"
        low = y(scores[-1]) > height - BOTTOM - 20  # among the ticks of the axis
        marks.append(text(x(sizes[-1]) + 12, y(scores[-1]) + (-12 if low else 14), kept, "kept", "start"))
    summary = (
        f"{len(history)} points from {read(sizes[0])} at {scores[0]:.2f}% to {read(sizes[-1])} at {scores[-1]:.2f}%"
    )
    return picture(marks, width, height, name, "Accuracy against size, round by round", summary)
