from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.export.codes import two_of_four


@given(st.lists(st.sets(st.integers(0, 3), max_size=2), max_size=40))
def test_every_survivor_is_among_the_positions(groups: list[set[int]]) -> None:
    alive = np.zeros((len(groups), 4), bool)
    for row, group in zip(alive, groups, strict=True):
        row[list(group)] = True
    codes, positions = two_of_four.encode(alive)
    assert codes.size == math.ceil(len(groups) / 3)
    assert positions.size == 2 * len(groups)
    assert (np.diff(positions) > 0).all()
    assert set(np.flatnonzero(alive)) <= set(positions)
    assert (positions // 4).tolist() == [group for group in range(len(groups)) for _ in range(2)]
    np.testing.assert_array_equal(two_of_four.decode(codes, positions.size), positions)


def test_three_groups_in_a_byte() -> None:
    alive = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], bool)
    assert two_of_four.encode(alive)[0].tolist() == [5 + 6 * 0 + 36 * 4]


def test_more_than_two_do_not_fit() -> None:
    assert two_of_four.fits(np.eye(4, dtype=bool))
    assert not two_of_four.fits(np.array([[1, 1, 0, 1]], bool))


@pytest.mark.parametrize(("codes", "count"), [([216], 2), ([0], 8), ([0, 0], 6)])
def test_bytes_that_are_no_codes_are_refused(codes: list[int], count: int) -> None:
    with pytest.raises(ValueError, match=r"bytes are not the places of \d+ survivors"):
        two_of_four.decode(np.array(codes, np.uint8), count)
