"""Tiles fill the picture, each in proportion, and what they are called is text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.views.treemap import tiles, treemap

Row = tuple[str, str, str, float]


def rows(shares: list[float]) -> list[Row]:
    return [(f"layer {index}", "values", "1 KB", share) for index, share in enumerate(sorted(shares, reverse=True))]


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=25))
def test_tiles_fill_the_picture_in_proportion(shares: list[float]) -> None:
    given_rows = rows(shares)
    found = tiles(given_rows, 400, 300)
    assert len(found) == len(shares)
    for (*_, share), tile in zip(given_rows, found, strict=True):
        assert tile.width * tile.height == pytest.approx(share / sum(shares) * 400 * 300, rel=1e-6)
        assert tile.x >= -1e-6
        assert tile.y >= -1e-6
        assert tile.x + tile.width <= 400 + 1e-6
        assert tile.y + tile.height <= 300 + 1e-6


def test_equal_shares_are_squares() -> None:
    assert {(round(tile.width), round(tile.height)) for tile in tiles(rows([0.25] * 4), 200, 200)} == {(100, 100)}


def test_names_are_text_and_what_has_no_bytes_has_no_tile() -> None:
    drawn = treemap(
        [("<b>&layer", "values", "1 KB", 0.9), ("", "", "1 B", 0.1), ("none", "graph", "0 B", 0.0)], 400, 200, "t"
    )
    assert "<b>" not in drawn
    assert drawn.count("<rect") == 2
    assert treemap([], 400, 200, "t").count("<rect") == 0
