"""Gradual pruning: a round's weights go one by one over the first part of its retraining, not all at once before it."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.compress.budget import Solver
from dwindle.compress.network import Network

PRUNINGS = 20
"""In how many goes: each sorts every weight of the network."""


@dataclass(frozen=True)
class Ramp:
    """How a round's share falls: steeply at first, while the network can still recover (Zhu & Gupta 2017, eq. 1)."""

    before: float
    """The share at the start."""
    after: float
    """The share at the end."""
    steps: int
    """How many of the retraining's first steps it takes."""
    last: bool
    """Whether the round meets the budget: then it ends on what meets it for the weights as they are by then."""

    def share(self, step: int) -> float:
        """What is left after `step` steps."""
        return self.after + (self.before - self.after) * (1 - step / self.steps) ** 3

    def prune(self, step: int, network: Network, solver: Solver) -> bool:
        """Prunes what is due after `step` steps; whether anything was."""
        if step > self.steps or step * PRUNINGS // self.steps == (step - 1) * PRUNINGS // self.steps:
            return False
        ends = self.last and step == self.steps
        solver.granularity.shrink(network, solver.largest_share(network) if ends else self.share(step))
        return True
