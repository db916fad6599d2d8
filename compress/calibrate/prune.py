"""Pruning without training, in a few steps: between two of them the survivors are solved, so that the next step chooses
among weights that have taken over what went before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dwindle.compress.calibrate.reconstruct import Layer, Reconstruction, reconstruct

if TYPE_CHECKING:
    from dwindle.compress.network import Granularity, Network

STEPS = 4
"""Of equal ratio: studies/calibrate compares with one step."""


def prune(
    network: Network,
    dense: nn.Module,
    granularity: Granularity,
    share: float,
    inputs: tuple[Tensor, ...],
    *,
    final: Callable[[Network], float] | None = None,
    steps: int = STEPS,
    on_layer: Callable[[int, int, Layer], None] = lambda done, total, layer: None,
) -> Reconstruction:
    """Prunes `network` in place to `share` of what `granularity` can prune, and solves what survives.

    `dense`: the network as it was before any pruning, whose outputs are wanted. `inputs`: samples, as `reconstruct`
    takes them. `final`: where the last step goes to instead, for a budget that depends on what the steps before it have
    left: called with the network, it returns a share. `on_layer` hears how many layers are done, of all steps together.
    Returns what came of the last step. Raises as `reconstruct` does.
    """
    before = granularity.share(network)
    result: Reconstruction | None = None
    for step in range(1, steps + 1):
        left = granularity.share(network)
        to = before * (share / before) ** (step / steps)
        if step == steps:
            to = final(network) if final else share
        granularity.shrink(network, to)
        if granularity.share(network) == left and not (step == steps and result is None):
            continue  # too fine a step for a pattern such as 2:4, or for aligned channels

        def heard(done: int, total: int, layer: Layer, step: int = step) -> None:
            on_layer((step - 1) * total + done, steps * total, layer)

        result = reconstruct(network, dense, inputs, on_layer=heard)
    assert result is not None
    return result
