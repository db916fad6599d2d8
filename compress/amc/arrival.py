"""Scores that bring every layer to a ratio of its own, all together, in however many rounds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.compress.scores import Score
    from dwindle.compress.surgery.choice import GroupScore
    from dwindle.compress.surgery.groups import Found


def arrival(ratios: Mapping[str, float]) -> Score:
    """Returns a score by magnitude that leaves each weight tensor at its ratio (1 where none is given) once the whole
    is pruned to what those ratios add up to."""

    def score(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: times(weight.detach().abs(), weight.numel(), ratios.get(name, 1.0))
            for name, weight in weights.items()
        }

    return score


def channel_arrival(ratios: Mapping[str, float], units: Mapping[str, int]) -> GroupScore:
    """Returns a score by magnitude that leaves each group of channels, by its name in `group_names`, at its ratio of
    the `units` it once had."""
    from dwindle.compress.surgery.choice import score

    def arriving(found: Found, model: nn.Module) -> list[Tensor]:
        return [
            times(scores, units.get(name, len(scores)), ratios.get(name, 1.0))
            for name, scores in zip(group_names(found), score(found, model), strict=True)
        ]

    return arriving


def group_names(found: Found) -> list[str]:
    """Returns a name for each group: the layer that makes its channels, and `NAME#2` for that layer's second group."""
    seen: Counter[str] = Counter()
    names = []
    for group in found.groups:
        seen[group.name] += 1
        names.append(group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}")
    return names


def times(scores: Tensor, whole: int, ratio: float) -> Tensor:
    """When each unit of a layer goes, if the layer holds `whole`·ratioᵗ units until time 1 and `whole`·ratio·e¹⁻ᵗ from
    then on, rounded: before 1 for those beyond the ratio, the lowest score first, and after 1 for the others.

    Ranking all layers by this one number takes them down the path on which log(layer's share) / log(its ratio)
    is the same for all, and on beyond its end all by the same factor. `scores` may lack units that are gone
    already, or hold them with a score of zero. float64, of the shape of `scores`.
    """
    flat = scores.reshape(-1)
    places = torch.arange(1, flat.numel() + 1, dtype=torch.float64, device=flat.device)
    ranks = torch.empty_like(places)
    ranks[flat.argsort(descending=True, stable=True)] = places - 0.5
    share = (ranks / whole).log()
    arrived = share < math.log(ratio)
    on_the_way = share / math.log(min(ratio, 1 - 1e-12))
    return torch.where(arrived, 1 + math.log(ratio) - share, on_the_way).reshape(scores.shape)
