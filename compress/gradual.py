"""Gradual pruning: a round's weights are pruned bit by bit during the first part of its retraining, not before it."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.compress.budget import Solver
from dwindle.compress.network import Network

PRUNINGS = 20
"""How many times a retraining prunes; each time sorts every weight of the network."""


@dataclass(frozen=True)
class Ramp:
    """How the surviving share falls over a retraining: steeply at first, while the network can still recover (Zhu &
    Gupta 2017, eq. 1)."""

    before: float
    """The surviving share at the start."""
    after: float
    """The surviving share at the end."""
    steps: int
    """How many steps at the start of the retraining prune."""
    last: bool
    """Whether the round is to meet the budget. Then the last pruning solves for the budget, with the weights of
    that step."""

    def share(self, step: int) -> float:
        """Returns the share that survives after `step` steps."""
        return self.after + (self.before - self.after) * (1 - step / self.steps) ** 3

    def due(self, step: int) -> bool:
        """Whether pruning is due after `step` steps."""
        return step <= self.steps and step * PRUNINGS // self.steps != (step - 1) * PRUNINGS // self.steps

    def prune(self, step: int, network: Network, solver: Solver) -> bool:
        """Prunes, if pruning is due after `step` steps; returns whether it was."""
        if not self.due(step):
            return False
        ends = self.last and step == self.steps
        solver.granularity.shrink(network, solver.largest_share(network) if ends else self.share(step))
        return True
