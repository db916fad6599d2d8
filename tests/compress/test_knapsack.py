from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from dwindle.compress.knapsack import Option, choose

OPTION = st.builds(Option, st.integers(0, 60), st.floats(0, 10, allow_nan=False))
ITEMS = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


def totals(items: dict[str, list[Option]], taken: dict[str, int]) -> tuple[float, float]:
    options = [items[name][index] for name, index in taken.items()]
    return sum(one.bytes for one in options), sum(one.loss for one in options)


@given(ITEMS, st.integers(0, 250))
def test_no_other_choice_that_fits_loses_less(lists: list[list[Option]], room: int) -> None:
    items = {str(index): own for index, own in enumerate(lists)}
    taken = choose(items, room)
    assert list(taken) == list(items)
    every = itertools.product(*(range(len(own)) for own in lists))
    fitting = [
        totals(items, dict(zip(items, indices, strict=True)))[1]
        for indices in every
        if totals(items, dict(zip(items, indices, strict=True)))[0] <= room
    ]
    size, loss = totals(items, taken)
    if fitting:
        assert size <= room
        assert math.isclose(loss, min(fitting), abs_tol=1e-9)
    else:
        assert size == sum(min(one.bytes for one in own) for own in lists)


@given(ITEMS, st.floats(0.0, 1.0))
def test_in_large_rooms_what_is_chosen_fits_and_wastes_little(lists: list[list[Option]], part: float) -> None:
    items = {str(index): [Option(1e6 * one.bytes + 0.7, one.loss) for one in own] for index, own in enumerate(lists)}
    least = sum(min(one.bytes for one in own) for own in items.values())
    room = least + part * 1e8
    size, loss = totals(items, choose(items, room))
    assert size <= room or size == least
    smaller = totals(items, choose(items, 0.99 * room))[1]
    assert loss <= smaller + 1e-9


def test_without_any_room_each_item_is_as_small_as_it_can_be() -> None:
    items = {"a": [Option(9, 0.0), Option(4, 5.0)], "b": [Option(3, 1.0)]}
    assert choose(items, -5) == {"a": 1, "b": 0}
    assert choose({}, 10) == {}
