"""What the bytes of a file are, as inline SVG: a tile per layer and kind, its area in proportion. Colours come from the
page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from dwindle.bench.views.axes import picture

_CHARACTER = 7.4
"""Pixels that a character of a label takes at most."""


class Tile(NamedTuple):
    """A rectangle and what it stands for."""

    name: str
    kind: str
    size: str
    """In words."""
    x: float
    y: float
    width: float
    height: float


def treemap(rows: Sequence[tuple[str, str, str, float]], width: int, height: int, name: str) -> str:
    """The map as an `<svg>`; `name` keeps its ids apart from those of others on the same page.

    rows: layer, kind, size in words and share of the file, the largest first.
    """
    marks = []
    for tile in tiles(rows, width, height):
        label = f"{tile.name} {tile.kind}".strip()
        marks.append(
            f'<rect class="tile {escape(tile.kind or "rest")}" x="{tile.x:.1f}" y="{tile.y:.1f}" '
            f'width="{tile.width:.1f}" height="{tile.height:.1f}"><title>{escape(label)}: {tile.size}</title></rect>'
        )
        room = int((tile.width - 12) / _CHARACTER)
        if tile.height >= 24 and room >= 4:
            short = tile.name if len(tile.name) <= room else f"…{tile.name[1 - room :]}"
            marks.append(f'<text class="tile" x="{tile.x + 6:.1f}" y="{tile.y + 17:.1f}">{escape(short)}</text>')
    return picture(marks, width, height, name, "What the bytes are", f"{len(rows)} tiles, by layer and kind")


def tiles(rows: Sequence[tuple[str, str, str, float]], width: float, height: float) -> list[Tile]:
    """Tiles that fill the rectangle, as near to squares as it goes (Bruls, Huizing, van Wijk: Squarified Treemaps)."""
    left = [(row, row[3] * width * height / sum(each[3] for each in rows)) for row in rows if row[3] > 0]
    found: list[Tile] = []
    x = y = 0.0
    while left:
        side = min(width - x, height - y)
        count = 1
        while count < len(left) and _worst(left[: count + 1], side) <= _worst(left[:count], side):
            count += 1
        strip, left = left[:count], left[count:]
        thick = sum(area for _, area in strip) / side if side > 0 else 0.0
        upright = width - x > height - y  # the strip stands at the left
        at = y if upright else x
        for (layer, kind, size, _), area in strip:
            long = area / thick if thick else 0.0
            box = (x, at, thick, long) if upright else (at, y, long, thick)
            found.append(Tile(layer, kind, size, *box))
            at += long
        x, y = (x + thick, y) if upright else (x, y + thick)
    return found


def _worst(strip: Sequence[tuple[object, float]], side: float) -> float:
    """The largest ratio of the sides of the tiles in a strip of that length."""
    areas = [area for _, area in strip]
    total, square = sum(areas), side * side
    if not square:
        return float("inf")
    return max(max(square * area / total**2, total**2 / (square * area)) for area in areas)
