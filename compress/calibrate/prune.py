"""Pruning without training, in a few steps: between two of them the survivors are solved, so that the next step chooses
among weights that have taken over what went before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dwindle.compress.calibrate.reconstruct import Layer, Reconstruction, reconstruct
from dwindle.compress.training import Progress
from dwindle.documents import Count, Share
from dwindle.models.layerwise.samples import spread

if TYPE_CHECKING:
    from dwindle.compress.network import Granularity, Network

STEPS = 4
"""Of equal ratio, at most, and no more than it takes for none to remove over half of what is left: what more of them
gain there is less than seeds differ by (`studies/calibrate/results.md`), and each takes as long as the first."""


@dataclass(frozen=True)
class Position:
    """How far `prune` has come: beside the network as it is then, all that it goes on from."""

    step: Count
    """The step under way, from 1. The network is pruned for it."""
    share: Share
    """What the granularity had of the network before the first step."""
    samples: Count
    """How many are used in this step."""
    layers: tuple[Layer, ...] = ()
    """What came of those that are solved in this step."""
    seconds: float = 0.0
    """How long solving took to come here."""
    taught: Progress | None = None
    """How far the distillation after the last step has come; None while weights are solved."""

    @property
    def spent(self) -> float:
        """Seconds that solving and distilling took to come here."""
        return self.seconds + (self.taught.seconds if self.taught else 0.0)


def prune(
    network: Network,
    dense: nn.Module,
    granularity: Granularity,
    share: float,
    inputs: tuple[Tensor, ...],
    *,
    final: Callable[[Network], float] | None = None,
    steps: int | None = None,
    resumed: Position | None = None,
    on_layer: Callable[[int, int, Layer], None] = lambda done, total, layer: None,
    save: Callable[[Position], None] = lambda position: None,
) -> Reconstruction:
    """Prunes `network` in place to `share` of what `granularity` can prune, and solves what survives.

    `dense`: the network as it was before any pruning, whose outputs are wanted. `inputs`: samples, as `reconstruct`
    takes them. `final`: where the last step goes to instead, for a budget that depends on what the steps before it have
    left: called with the network, it returns a share. `steps`: how many; None: see STEPS. `resumed`: where an
    interrupted call was, of the same arguments, when `network` was saved. `on_layer` hears how many layers are done, of
    all steps together. `save` is called as a step begins and after each layer, when network and position are enough to
    go on from.
    Returns what came of the last step. Raises as `reconstruct` does.
    """
    began = time.monotonic() - (resumed.seconds if resumed else 0.0)
    before = resumed.share if resumed else granularity.share(network)
    steps = _steps(share / before) if steps is None else steps
    result: Reconstruction | None = None
    for step in range(resumed.step if resumed else 1, steps + 1):
        if resumed and step == resumed.step:
            seen, solved = spread(inputs, resumed.samples), resumed.layers
        else:
            left = granularity.share(network)
            to = before * (share / before) ** (step / steps)
            if step == steps:
                to = final(network) if final else share
            granularity.shrink(network, to)
            if granularity.share(network) == left and not (step == steps and result is None):
                continue  # too fine a step for a pattern such as 2:4, or for aligned channels
            seen, solved = inputs, ()

        def heard(done: int, total: int, layer: Layer, step: int = step) -> None:
            on_layer((step - 1) * total + done, steps * total, layer)

        def reached(samples: int, layers: tuple[Layer, ...], step: int = step) -> None:
            save(Position(step, before, samples, layers, time.monotonic() - began))

        reached(len(seen[0]), solved)
        result = reconstruct(network, dense, seen, solved=solved, on_layer=heard, save=reached)
    assert result is not None
    return result


def _steps(ratio: float) -> int:
    """How many steps lead to that share of what there is."""
    return STEPS if ratio <= 0 else min(STEPS, max(1, math.ceil(-math.log2(ratio) - 1e-9)))
