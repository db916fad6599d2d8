"""No allocation costs more than its budget, whatever is asked for, and none wastes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.amc.allocation import Allocator, Layer, full
from dwindle.errors import BudgetMissed


class Sum:
    """Units of each layer cost the same, as single weights do."""

    currency = "weights"

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.layers = tuple(Layer(f"layer{i}", n, (float(i),), step) for i, (n, step) in enumerate(sizes))

    def cost(self, kept: Sequence[int]) -> float:
        return sum(kept)

    def apply(self, kept: Sequence[int]) -> nn.Module:
        raise NotImplementedError


class Chain(Sum):
    """Each layer's cost is its width times the width of the one before, as MACs are."""

    currency = "MACs"

    def cost(self, kept: Sequence[int]) -> float:
        widths = [3, *kept, 10]
        return float(sum(a * b for a, b in pairwise(widths)))


layers = st.lists(st.tuples(st.integers(1, 300), st.sampled_from([1, 1, 4, 8])), min_size=1, max_size=6)
spaces = st.builds(lambda kind, sizes: kind(sizes), st.sampled_from([Sum, Chain]), layers)
actions = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))


@st.composite
def allocators(draw: st.DrawFn) -> Allocator:
    space = draw(spaces)
    least, most = space.cost([layer.count(0) for layer in space.layers]), space.cost(full(space))
    return Allocator.of(space, least + draw(st.floats(0, 1.2)) * (most - least))


@given(allocators(), st.data())
def test_actions_are_clipped_to_the_budget(allocator: Allocator, data: st.DataObject) -> None:
    space = allocator.space
    kept: tuple[int, ...] = ()
    for layer in space.layers:
        kept = (*kept, allocator.keep(kept, data.draw(actions)))
        assert kept[-1] == layer.units or (0 < kept[-1] < layer.units and kept[-1] % layer.step == 0)
    assert space.cost(kept) <= allocator.budget
    spent = allocator.spend(kept)
    assert space.cost(spent) <= allocator.budget
    assert all(after >= before for before, after in zip(kept, spent, strict=True))


@given(allocators(), st.integers(0, 99))
def test_random_and_uniform_allocations_keep_within_the_budget(allocator: Allocator, seed: int) -> None:
    space = allocator.space
    assert space.cost(allocator.uniform) <= allocator.budget
    assert space.cost(allocator.random(np.random.default_rng(seed))) <= allocator.budget


@given(layers, st.floats(0, 1), st.integers(0, 99))
def test_what_is_spent_comes_within_one_step_per_layer_of_the_budget(
    sizes: list[tuple[int, int]], share: float, seed: int
) -> None:
    space = Sum(sizes)
    budget = share * space.cost(full(space))
    assume(space.cost([layer.count(0) for layer in space.layers]) <= budget)
    allocator = Allocator.of(space, budget)
    slack = sum(layer.step for layer in space.layers)
    generator = np.random.default_rng(seed)
    walk: tuple[int, ...] = ()
    for _ in space.layers:
        walk = (*walk, allocator.keep(walk, generator.random()))
    for kept in (allocator.uniform, allocator.random(generator), allocator.spend(walk)):
        assert budget - space.cost(kept) < slack


@given(st.integers(1, 300), st.sampled_from([1, 4, 8]), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_ratio_never_keeps_fewer(units: int, step: int, one: float, other: float) -> None:
    layer = Layer("layer", units, (), step)
    low, high = sorted((one, other))
    assert 0 < layer.count(low) <= layer.count(high) <= layer.count(1.0) == units


def test_an_action_means_the_uniform_ratio_at_one_half_and_everything_at_one() -> None:
    allocator = Allocator.of(Sum([(1000, 1), (3000, 1)]), 200)
    assert allocator.uniform == (50, 150)
    assert allocator.ratio(0.5) == pytest.approx(0.05, abs=5e-4)
    assert allocator.ratio(1.0) == 1.0
    assert allocator.ratio(0.0) == pytest.approx(0.0025, abs=5e-5)


def test_a_greedy_layer_leaves_the_later_ones_their_least() -> None:
    allocator = Allocator.of(Sum([(100, 1), (100, 1), (100, 1)]), 150)
    first = allocator.keep((), 1.0)
    second = allocator.keep((first,), 1.0)
    third = allocator.keep((first, second), 1.0)
    least = allocator.space.layers[0].count(allocator.ratio(0.0))
    assert (first, second, third) == (150 - 2 * least, least, least)


def test_a_budget_below_the_least_is_refused_with_the_least() -> None:
    with pytest.raises(BudgetMissed, match="the least that every layer can keep comes to 16"):
        Allocator.of(Sum([(32, 8), (32, 8)]), 15)
