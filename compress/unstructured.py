"""Unstructured pruning: any single weight may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dwindle.compress.masks import density, holder, prunable
from dwindle.compress.network import Network
from dwindle.compress.scores import Score, magnitude

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Unstructured:
    """Keeps the highest-scoring weights of the whole network, whatever layer they are in."""

    score: Score = magnitude

    def share(self, network: Network) -> float:
        return density(network.masks) if network.masks else 1.0

    def shrink(self, network: Network, share: float) -> None:
        """Prunes in place until `share` of the prunable weights is left. What was pruned stays pruned."""
        weights = prunable(network.model)
        total = sum(weight.numel() for weight in weights.values())
        network.masks = keep_highest(self.score(weights), network.masks, round(share * total))
        holder(network.model, network.masks)()


def keep_highest(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of exactly the `count` highest scores among those that `masks` (empty: all) still holds.

    Ties go to the earlier weight, so the choice is the same on every machine.
    """
    flat = torch.cat(
        [
            (score.masked_fill(~masks[name], -1) if masks else score).reshape(-1).cpu()
            for name, score in scores.items()
        ]
    )
    kept = torch.zeros(flat.numel(), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[:count]] = True
    kept &= flat >= 0
    pieces = kept.split([score.numel() for score in scores.values()])
    return {name: piece.reshape(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)}
