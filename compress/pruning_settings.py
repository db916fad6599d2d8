"""How a run prunes and retrains: what it was asked for, and what follows from that for each round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwindle.compress.methods import Method

if TYPE_CHECKING:
    from dwindle.compress.budget import Solver
    from dwindle.compress.network import Network
    from dwindle.export.target import Target
    from dwindle.record import Round


@dataclass(frozen=True)
class PruningSettings:
    """How a run prunes and retrains."""

    method: Method
    prune_per_round: float
    """The share of the surviving weights that each round removes."""
    rounds: int | None
    """A fixed number of rounds, which all remove the same share; None: as many as `prune_per_round` needs."""
    recalibrate: bool = False
    """Whether each training recalibrates batch norm (`Training.recalibrate`)."""
    gradual: float = 0.0
    """The share of a retraining's steps over which its weights are pruned; 0: all at once, before the first step."""
    calib_samples: int | None = None
    """The number of samples that surviving weights are solved on, instead of being retrained; None: retrained."""
    distill: int = 0
    """How often each of these samples is shown afterwards, to teach the network the dense one's answers."""
    qat: float = 0.0
    """The share of a retraining's steps that train through the rounding of `target`, its last ones."""
    target: Target | None = None
    """What the network is trained for; may be None where `qat` is 0."""
    update: bool = False
    """Whether the survivors of each round are solved by least squares before they are retrained."""
    save_every: float = 300.0
    """Seconds between saves within a round."""
    pretrained: bool = False
    """Whether the network comes trained: then the dense round only judges it."""

    def next_share(self, solver: Solver, network: Network, history: Sequence[Round]) -> float:
        """The share to prune to next: one regular step, or exactly the budget where that would overshoot it.

        It depends on the network and the number of rounds alone, so that a resumed run chooses the same.
        """
        share = solver.granularity.share(network)
        if self.calib_samples:
            return solver.largest_share(network)
        if self.rounds is None:
            step = share * (1 - self.prune_per_round)
            # A budget just past the step is worth going straight to: a round costs a whole retraining.
            if solver.excess_at(network, step * (1 - self.prune_per_round / 4)) > 1:
                return step
            return solver.largest_share(network)
        final, left = solver.largest_share(network), max(1, self.rounds + 1 - len(history))
        return float(share * (final / share) ** (1 / left)) if left > 1 else final

    def expected_rounds(self, solvers: Sequence[Solver], network: Network, history: Sequence[Round]) -> int:
        """How many rounds of pruning and retraining the whole run takes, estimated from the present weights."""
        done, rate = max(0, len(history) - 1), math.log(1 - self.prune_per_round)
        if self.rounds is not None:
            return self.rounds
        if solvers[-1].budget.allowance:
            return done + 1  # only validation will tell
        for solver in solvers:
            if solver.excess(network) > 1:
                if self.calib_samples:
                    done += 1
                    continue
                ratio = solver.largest_share(network) / solver.granularity.share(network)
                done += max(1, math.ceil(math.log(max(ratio, 1e-6)) / rate - 0.25))
        return done
