"""Weight pruning: masks single weights, or blocks of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from dwindle.compress.layer_shares import LayerShares
from dwindle.compress.layers import Layers
from dwindle.compress.masks import density, mask_applier
from dwindle.compress.network import Network
from dwindle.compress.scores import Score, magnitude
from dwindle.export.zeros import Kind

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Keeps the highest-scoring blocks of the whole network, whatever layer they are in.

    A block is `rows` output channels by `columns` input channels at one kernel position; 1x1 is
    unstructured pruning. Where a layer's width is no multiple, its last blocks are smaller.
    """

    rows: int = 1
    columns: int = 1
    score: Score = magnitude
    layers: Layers = field(default_factory=Layers)
    shares: LayerShares = field(default_factory=LayerShares)
    """The densities of layers that have one of their own: they are pruned to it at once."""
    kind: Kind = field(default="weights", init=False)
    floor: float | None = field(default=None, init=False)

    def share(self, network: Network) -> float:
        return density(network.masks) if network.masks else 1.0

    def shrink(self, network: Network, share: float) -> None:
        """Prunes in place until at most `share` of the prunable weights is left, or what the layers keep that have a
        share of their own.

        What was pruned stays pruned. Raises UsageError for a layer that isn't there.
        """
        weights = self.layers.of(network.model, network.kernels)
        total = sum(weight.numel() for weight in weights.values())
        scores = {name: self._pool(score).cpu() for name, score in self.score(weights).items()}
        sizes = {name: self._count(weight) for name, weight in weights.items()}
        alive = {name: self._pool(mask.to(torch.float32)) > 0 for name, mask in network.masks.items()}
        kept: dict[str, Tensor] = {}
        for name, own in self.shares.of(weights).items():
            count = max(1, round(own * weights[name].numel()))
            kept |= keep_highest({name: scores[name]}, sizes, {name: alive[name]} if alive else {}, count)
        spent = sum(int(sizes[name][mask].sum()) for name, mask in kept.items())
        others = {name: scores[name] for name in weights if name not in kept}
        if others:
            kept |= keep_highest(others, sizes, alive, max(0, round(share * total) - spent))
        network.masks = {name: self._expand(kept[name], weights[name]) for name in weights}
        mask_applier(network.model, network.masks)()

    def alone(self, weight: Tensor, share: float) -> Tensor:
        """Returns the mask that leaves `share` of a weight by itself, its largest blocks."""
        count = {"": self._count(weight)}
        kept = keep_highest({"": self._pool(weight.detach().abs()).cpu()}, count, {}, round(share * weight.numel()))
        return self._expand(kept[""], weight)

    def _pool(self, weight: Tensor) -> Tensor:
        """Returns the mean over each block: (out, in, …) → (⌈out/rows⌉, ⌈in/columns⌉, positions)."""
        if self.rows == self.columns == 1:
            return weight.flatten(2) if weight.dim() > 2 else weight[..., None]
        flat = weight.flatten(2) if weight.dim() > 2 else weight[..., None]
        pooled = functional.avg_pool2d(
            flat.permute(2, 0, 1)[:, None], (self.rows, self.columns), ceil_mode=True, count_include_pad=False
        )
        return pooled[:, 0].permute(1, 2, 0)

    def _count(self, weight: Tensor) -> Tensor:
        """Returns how many weights each block has: rows × columns, and fewer at the edges of the tensor."""
        blocks = self._pool(weight)
        out, inner = weight.shape[:2]
        rows = torch.arange(0, out, self.rows).clamp(max=out).neg().add(out).clamp(max=self.rows)
        columns = torch.arange(0, inner, self.columns).neg().add(inner).clamp(max=self.columns)
        return (rows[:, None, None] * columns[None, :, None]).expand(blocks.shape)

    def _expand(self, blocks: Tensor, weight: Tensor) -> Tensor:
        out, inner = weight.shape[:2]
        wide = blocks.repeat_interleave(self.rows, 0)[:out].repeat_interleave(self.columns, 1)[:, :inner]
        return wide.reshape(weight.shape)


def keep_highest(
    scores: Mapping[str, Tensor], sizes: Mapping[str, Tensor], alive: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Masks of the highest-scoring units among those `alive` (empty: all), holding at most `count` weights.

    `sizes`: how many weights each unit holds. Ties go to the earlier unit, so the choice is the same on
    every machine.
    """
    flat = torch.cat(
        [(score.masked_fill(~alive[name], -1) if alive else score).reshape(-1) for name, score in scores.items()]
    )
    held = {int(bound) for name in scores if sizes[name].numel() for bound in sizes[name].aminmax()}
    if len(held) == 1:
        kept = _highest(flat, count // held.pop())
    else:
        weights = torch.cat([sizes[name].reshape(-1) for name in scores])
        order = flat.argsort(descending=True, stable=True)
        kept = torch.zeros(flat.numel(), dtype=torch.bool)
        kept[order[weights[order].cumsum(0) <= count]] = True
    kept &= flat >= 0
    pieces = torch.split(kept, [score.numel() for score in scores.values()])
    return {name: piece.reshape(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)}


def _highest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` highest are, the earlier ones of equals: as a stable sort has it, in a tenth of its time."""
    if count >= len(scores):
        return torch.ones(len(scores), dtype=torch.bool)
    if not count:
        return torch.zeros(len(scores), dtype=torch.bool)
    values = (scores if scores.dtype == torch.float64 else scores.float()).numpy()
    threshold = float(np.partition(values, len(values) - count)[len(values) - count])
    kept = scores > threshold
    equals = (scores == threshold).nonzero()[:, 0]
    kept[equals[: count - int(kept.sum())]] = True
    return kept
