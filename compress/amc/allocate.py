"""AMC in a compression: each layer's ratio is searched for first, then the usual rounds prune towards it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.compress.amc import search as amc
from dwindle.compress.amc.allocation import Space, full
from dwindle.compress.amc.arrival import arrival, channel_arrival
from dwindle.compress.amc.densities import Densities
from dwindle.compress.blocks import Blocks
from dwindle.compress.channels import Channels
from dwindle.compress.network import Granularity, Network
from dwindle.errors import UsageError
from dwindle.models import ranks

if TYPE_CHECKING:
    from dwindle.models.checked_task import CheckedTask

LEAST = 0.2
"""The least share that is searched for. Allocations are judged before any retraining: at 3% every one of them is at
chance, and the best of them killed half the networks. He et al. 2018, §4.3, end at 20% themselves."""
FOLDER = "amc"
"""The folder of the search inside a checkpoint."""


def check(pruning: Granularity) -> None:
    """Raises UsageError where AMC cannot choose for this granularity, or its packages are not installed."""
    if not isinstance(pruning, Channels) and not (isinstance(pruning, Blocks) and pruning.rows == pruning.columns == 1):
        raise UsageError(
            "`method` amc chooses for single weights or channels: use `granularity` unstructured or channel",
            code="conflict",
            option="granularity",
        )
    amc.require()


def allocation(checkpoint: Path) -> amc.Result | None:
    """Returns what AMC found for a checkpoint, None if it was not used; raises CheckpointError where that is
    damaged."""
    return amc.found(checkpoint / FOLDER)


def allocate(
    checkpoint: Path,
    network: Network,
    pruning: Granularity,
    task: CheckedTask,
    share: float,
    settings: amc.Settings | None = None,
    watch: amc.Watch | None = None,
) -> tuple[Granularity, amc.Result]:
    """Searches, or reads the finished search of, the allocation for `share` of what `pruning` counts, or for LEAST
    where that is more; and gives the granularity that prunes along it, and beyond it every layer by the same factor.

    `network` is the trained, dense one; once the search is finished it may be any later one. Under torchrun the
    first rank searches and the others wait. Raises what `amc.search` does.
    """
    check(pruning)
    folder = checkpoint / FOLDER

    def search() -> amc.Result:
        space = _space(network, pruning, task)
        budget = max(share, LEAST) * space.cost(full(space))
        return amc.search(folder, space, task, budget, settings or amc.Settings(), watch)

    result = ranks.broadcast_from_first(lambda: allocation(checkpoint) or search())
    units = dict(zip(result.names, result.units, strict=True))
    if isinstance(pruning, Channels):
        return replace(pruning, score=channel_arrival(result.ratios, units)), result
    assert isinstance(pruning, Blocks)
    return replace(pruning, score=arrival(result.ratios)), result


def _space(network: Network, pruning: Granularity, task: CheckedTask) -> Space:
    if isinstance(pruning, Channels):
        from dwindle.compress.amc.widths import Widths

        return Widths(network.model, task.example_inputs(), pruning.align, pruning.whole(network.model), pruning.counts)
    assert isinstance(pruning, Blocks)
    return Densities(network.model, pruning.layers, task.example_inputs())
