"""Allocation: how much each layer keeps, at one budget for all of them together."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dwindle.errors import BudgetMissed

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Kept = tuple[int, ...]
"""How many units each layer keeps, in the order of `Space.layers`."""


@dataclass(frozen=True)
class Layer:
    """What an allocation decides about as one: a weight tensor, or channels that go together."""

    name: str
    units: int
    """How many weights or channels the layer has."""
    features: tuple[float, ...]
    """What an agent sees of the layer: see `dwindle.compress.amc.features.describe`."""
    step: int = 1
    """The layer keeps a multiple of this many units, or all of them."""

    def count(self, ratio: float) -> int:
        """Returns the number of units nearest to `ratio` of them that the layer can keep; never 0."""
        wanted = ratio * self.units
        multiple = min(max(1, round(wanted / self.step)) * self.step, self.units)
        return multiple if abs(multiple - wanted) <= self.units - wanted else self.units


class Space(Protocol):
    """What can be kept of a network, layer by layer, and what that costs."""

    layers: tuple[Layer, ...]
    """The layers, in the order in which a sample passes through them."""
    currency: str
    """The name of what `cost` counts: weights, MACs."""

    def cost(self, kept: Sequence[int]) -> float:
        """Returns the cost of the network under an allocation; it never falls when a layer keeps more."""

    def apply(self, kept: Sequence[int]) -> nn.Module:
        """Returns a copy of the network in which every layer keeps its best `kept` units; nothing is retrained."""


def full(space: Space) -> Kept:
    """Returns the allocation that prunes nothing."""
    return tuple(layer.units for layer in space.layers)


@dataclass(frozen=True)
class Allocator:
    """Makes allocations whose exact cost, in whole units, is within a budget."""

    space: Space
    budget: float
    base: float
    """The largest ratio within the budget that is the same for all layers."""
    uniform: Kept
    """The allocation at that ratio."""

    @classmethod
    def of(cls, space: Space, budget: float) -> Allocator:
        """Raises BudgetMissed where the least that every layer can keep costs more than `budget`."""
        least = tuple(layer.count(0.0) for layer in space.layers)
        if space.cost(least) > budget:
            raise BudgetMissed(
                f"no allocation costs {budget:,.0f} {space.currency} or less: the least that every layer can "
                f"keep comes to {space.cost(least):,.0f}; ask for more"
            )
        factor, kept = _largest(space, budget, [1.0] * len(space.layers))
        return cls(space, budget, min(1.0, factor), kept)

    def ratio(self, action: float) -> float:
        """Translates an action in [0, 1] into the share that a layer asks to keep: 0 → base², 1/2 → base, 1 → 1.

        Geometric, so that an action means as much at a density of 5% as at one of 50%, and an agent that
        knows nothing starts around the uniform allocation. He et al. take the action itself for the ratio,
        which at 5% leaves nineteen twentieths of its range asking for more than there is.
        """
        return float(self.base ** (2 - 2 * action))

    def keep(self, decided: Sequence[int], action: float) -> int:
        """Returns how many units the next layer keeps: what the action asks for, or as much as still leaves every later
        layer the least that an action can ask for (He et al. 2018, algorithm 1)."""
        layer, *later = self.space.layers[len(decided) :]
        floor, wanted = layer.count(self.ratio(0)), layer.count(self.ratio(action))
        rest = [other.count(self.ratio(0)) for other in later]

        def cost(units: int) -> float:
            return self.space.cost([*decided, units, *rest])

        if cost(wanted) <= self.budget:
            return wanted
        lower = range(floor, wanted, layer.step)
        return lower[bisect_right(lower, self.budget, key=cost) - 1]

    def spend(self, kept: Sequence[int]) -> Kept:
        """Shares out what an allocation within the budget leaves of it, in proportion to what layers keep."""
        ratios = [count / layer.units for count, layer in zip(kept, self.space.layers, strict=True)]
        return _largest(self.space, self.budget, ratios)[1]

    def random(self, generator: np.random.Generator) -> Kept:
        """An action drawn evenly for each layer, then all ratios scaled by one factor to spend the budget.

        A harder opponent than a random walk through `keep`, which favours the layers that come first.
        """
        ratios = [self.ratio(action) for action in generator.random(len(self.space.layers))]
        return _largest(self.space, self.budget, ratios)[1]


def _largest(space: Space, budget: float, ratios: Sequence[float]) -> tuple[float, Kept]:
    """Returns the largest common factor of the ratios (each then at most 1) that stays within the budget, and
    what is kept."""

    def at(factor: float) -> Kept:
        return tuple(layer.count(min(1.0, factor * ratio)) for layer, ratio in zip(space.layers, ratios, strict=True))

    low, high = -40.0, -math.log(min(ratios))
    if space.cost(at(math.exp(high))) <= budget:
        return math.exp(high), at(math.exp(high))
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if space.cost(at(math.exp(middle))) <= budget else (low, middle)
    return math.exp(low), at(math.exp(low))
