"""Budgets: how small the result must be, and the largest network that is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from scipy.optimize import brentq

from dwindle.compress.allowance import Allowance
from dwindle.compress.network import Granularity, Network
from dwindle.compress.surgery.groups import explain
from dwindle.errors import BudgetMissed, UsageError
from dwindle.quantities import format_bytes, format_names

if TYPE_CHECKING:
    from torch import nn

    from dwindle.compress.meter import Meter

SLACK = 0.01
"""A solution within this share of the budget, from below, is close enough."""


@dataclass(frozen=True)
class Budget:
    """Limits that must all hold; a limit that is None is none."""

    size: int | None = None
    """The most bytes that the exported file may have."""
    density: float | None = None
    """The largest share that may survive of what can be pruned."""
    macs: float | None = None
    """The most multiply-accumulates of one inference; a value up to 1 is a share of the dense network's."""
    cost: float | None = None
    """The most ARM64 instructions of one inference; a value up to 1 is a share of the dense network's."""
    latency: float | None = None
    """The most milliseconds of one inference, by a device's profile."""
    allowance: Allowance | None = None
    """Instead of limits: the network shrinks as far as its validation metric allows."""

    def __post_init__(self) -> None:
        every = (self.size, self.density, self.macs, self.cost, self.latency)
        limits = [limit for limit in every if limit is not None]
        if not limits and self.allowance is None:
            raise UsageError(
                "there is no budget: give `size`, `macs`, `cost`, `latency`, `density`, or `max_drop` or `max_change`",
                code="no-budget",
            )
        if limits and self.allowance is not None:
            raise UsageError(
                f"`{self.allowance.option}` finds the smallest network by itself: give it alone, or give the other "
                "budget and let `dwindle gate --max-drop` judge the result",
                code="conflict",
                option=self.allowance.option,
            )

    def macs_of(self, network: Network) -> float:
        """Returns the limit in multiply-accumulates; infinite where there is none."""
        if self.macs is None:
            return math.inf
        return self.macs * network.dense_macs if self.macs <= 1 else self.macs

    @property
    def price(self) -> str | None:
        """The option that limits a price by layers; None where none does."""
        return "cost" if self.cost is not None else "latency" if self.latency is not None else None

    def price_of(self, meter: Meter) -> float:
        """Returns the limit in the meter's unit; infinite where there is none."""
        if self.cost is not None:
            return self.cost * meter.dense if self.cost <= 1 else self.cost
        return math.inf if self.latency is None else self.latency


@dataclass(frozen=True)
class Solver:
    """Finds how far a network has to shrink to meet a budget, counting bytes by the target's own packer."""

    budget: Budget
    granularity: Granularity
    packed_bytes: Callable[[nn.Module], int]
    target: str
    meter: Meter | None = None
    """Says what a network costs; there where the budget limits that."""
    reserve: float = 0.0
    """The share of the budget that a pruning leaves free, for bytes that retraining adds: those of a palette depend on
    the values. Without it a file may end a few bytes too large, and another round costs a whole retraining."""

    def excess(self, network: Network) -> float:
        """Returns the network's size, density, MACs or price over its limit, whichever is worst: at most 1 where the
        budget holds."""
        size, density = self.budget.size, self.budget.density
        return max(
            self.packed_bytes(network.model) / size if size else 0.0,
            self.granularity.share(network) / density if density else 0.0,
            network.macs / self.budget.macs_of(network) if self.budget.macs else 0.0,
            self.meter.of(network.model) / self.budget.price_of(self.meter) if self.meter else 0.0,
        )

    def excess_at(self, network: Network, share: float) -> float:
        """Returns the excess of a copy of the network that is pruned to `share`."""
        return self.excess(self.shrunk(network, share))

    def largest_share(self, network: Network) -> float:
        """Returns the largest share that meets the budget, within SLACK of the limit where the granularity allows.

        Brent's method on excess against share, which grows almost linearly: a handful of evaluations. Raises
        BudgetMissed where not even a share of 0 does: a fresh network's biases are zeros, which take fewer bytes than
        trained ones.
        """
        met, most = {0.0}, 1 - self.reserve

        @cache
        def distance(share: float) -> float:
            excess = self.excess_at(network, share)
            if excess <= most:
                met.add(share)
            # Zero ends the search as soon as a share lands inside the slack.
            return 0.0 if most - SLACK <= excess <= most else excess - (most - SLACK / 2)

        high = min(self.granularity.share(network), self.budget.density or 1.0)
        if self.budget.macs:
            high = min(high, self.budget.macs_of(network) / network.dense_macs)
        if self.meter:
            high = min(high, self.budget.price_of(self.meter) / self.meter.dense)
        if distance(high) > 0:
            if distance(0.0) > 0:
                self._require_reach(network)
                return 0.0
            brentq(distance, 0.0, high, xtol=1e-5, maxiter=40, disp=False)
        return max(met)

    def check_feasible(self, network: Network) -> None:
        """Raises UsageError where the network meets the budget without pruning or its MACs aren't all known, and
        BudgetMissed, with what can be reached, where no amount of pruning meets it."""
        if self.budget.macs and network.uncounted:
            raise UsageError(
                f"the multiply-accumulates of {format_names(network.uncounted)} are not known, so that no number of "
                "`macs` can be promised: give a `size` or a `density`",
                code="uncounted",
                option="macs",
                name=network.uncounted[0],
            )
        if self.budget.allowance:
            return
        if self.excess(network) <= 1:
            raise UsageError(f"there is nothing to prune: {self._kept(network)}", code="nothing-to-prune")
        self._require_reach(network)

    def _require_reach(self, network: Network) -> None:
        """Raises BudgetMissed, with what can be reached, where no amount of pruning meets the budget."""
        size, floor = self.budget.size, self.shrunk(network, 0.0)
        if size and self.packed_bytes(floor.model) > size:
            raise BudgetMissed(
                f"a `size` of {format_bytes(size)} cannot be reached: with everything pruned that can be, the file for "
                f"{self.target} still has {self._bytes(floor)}{_stays(floor)}; give a larger `size`, or another "
                "`granularity` or `target`",
                code="out-of-reach",
                option="size",
            )
        least = self.granularity.share(floor)
        if self.budget.density and least > self.budget.density:
            raise BudgetMissed(
                f"a `density` of {self.budget.density:.1%} cannot be reached: the lowest with this granularity is "
                f"{least:.1%}; give a higher `density` or a finer `granularity`",
                code="out-of-reach",
                option="density",
            )
        if self.budget.macs and floor.macs > self.budget.macs_of(network):
            raise BudgetMissed(
                f"{self.budget.macs_of(network):,.0f} `macs` cannot be reached: the fewest with this granularity and "
                f"alignment are {floor.macs:,}{_stays(floor)}; give more `macs`, or a smaller `align`",
                code="out-of-reach",
                option="macs",
            )

        if self.meter and (spent := self.meter.of(floor.model)) > (limit := self.budget.price_of(self.meter)):
            words, option = self.meter.price.words, self.budget.price
            raise BudgetMissed(
                f"a `{option}` of {words(limit)} cannot be reached: the least with this granularity and alignment is "
                f"{words(spent)}{_stays(floor)}; give more, or a smaller `align`",
                code="out-of-reach",
                option=option,
            )

    def shrunk(self, network: Network, share: float) -> Network:
        """Returns a copy of the network, pruned to `share`."""
        candidate = network.copy()
        self.granularity.shrink(candidate, share)
        return candidate

    def _kept(self, network: Network) -> str:
        """Says why a budget prunes nothing of a network that meets it, and suggests a smaller one."""
        size, density, macs = self.budget.size, self.budget.density, self.budget.macs
        limits: list[tuple[str, str]] = []
        if size:
            packed = self.packed_bytes(network.model)
            why = f"the dense network's {packed:,} bytes as {self.target} are within {format_bytes(size)}"
            limits.append((why, f"`size` {packed // 5}"))
        if macs:
            why = f"the dense network's {network.macs:,} MACs are within {self.budget.macs_of(network):,.0f}"
            limits.append((why, "`macs` 50%"))
        if self.meter:
            words, option = self.meter.price.words, self.budget.price
            spent, limit = self.meter.of(network.model), self.budget.price_of(self.meter)
            limits.append(
                (f"the dense network's {words(spent)} are within {words(limit)}", f"`{option}` {spent / 2:g}")
            )
        if density:
            share = self.granularity.share(network) / 5
            limits.append((f"a density of {density:.1%} keeps every weight", f"`density` {share:.0%}"))
        return (
            f"{', and '.join(why for why, _ in limits)}; give less, such as {limits[0][1]}, or `method` keep to export "
            "the network as it is"
        )

    def _bytes(self, network: Network) -> str:
        return f"{self.packed_bytes(network.model):,} bytes"


def _stays(network: Network) -> str:
    """What of a network couldn't be cut, and why, for a message; "" where weights were pruned."""
    return f", as these layers can't lose channels ({explain(network.uncut)})" if network.uncut else ""
