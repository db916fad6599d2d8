"""Least squares within iterative pruning: the survivors of a round make up for what it pruned, before it retrains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dwindle.compress.calibrate.reconstruct import reconstruct
from dwindle.compress.channels import compose
from dwindle.models import ranks
from dwindle.models.layerwise.samples import spread

if TYPE_CHECKING:
    from dwindle.compress.network import Network
    from dwindle.compress.surgery.cut import Keep
    from dwindle.models.checked_task import CheckedTask

LEAST_SQUARES = "least-squares"
SAMPLES = 1024
"""Of training inputs, as training shows them: as many as `method` calibrate takes."""


def solve_survivors(network: Network, before: nn.Module, keep: Keep | None, task: CheckedTask) -> Sequence[str]:
    """Moves the surviving weights of a network that was just pruned, in place, to where they best give the outputs that
    `before`, the network as it was, gives from what the pruned one sees. Batch norm's statistics are taken anew.

    `keep`: what a cut kept of `before`; None where weights were masked. What an optimizer knows stays. The first
    rank solves for all. Returns what is worth saying, a sentence each. Raises as `reconstruct` does.
    """
    notes: list[str] = []

    def solved() -> list[Tensor]:
        pruned = replace(network, kept={} if keep is None else compose({}, keep))
        notes.extend(reconstruct(pruned, before, spread(task.training_inputs(), SAMPLES)).notes)
        return [tensor.detach() for tensor in (*network.model.parameters(), *network.model.buffers())]

    own = (*network.model.parameters(), *network.model.buffers())
    for tensor, found in zip(own, ranks.broadcast_from_first(solved), strict=True):
        tensor.data.copy_(found)
    return notes
