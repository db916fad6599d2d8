"""Scores: how much each weight matters. The weights with the lowest scores are pruned first, whatever their layer.

Third parties add one through the entry-point group `dwindle.scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dwindle import registry

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "dwindle.scores"
Score = Callable[[Mapping[str, "Tensor"]], dict[str, "Tensor"]]
"""Weights by name (pruned ones zero) → one non-negative score per weight, comparable across tensors."""


def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w|, ranked over the whole network: the criterion of Renda et al. 2020 and of the lottery ticket."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def layerwise(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank of |w| within its own tensor, in [0, 1): every layer loses the same share."""
    return {name: _ranks(weight.detach().abs()) / weight.numel() for name, weight in weights.items()}


def lamp(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w² over the energy of all weights in its tensor that are no smaller (Lee et al. 2021, eq. 4).

    A tensor's largest weight scores 1, so that no layer can be emptied before every other is down to one.
    """
    return {name: _lamp(weight.detach()) for name, weight in weights.items()}


def load(name: str) -> Score:
    """Returns the score of that name, which is computed without gradients; raises UsageError for an unknown name."""
    import torch

    score: Score = registry.resolve(GROUP, name, "score")
    return torch.no_grad()(score)


def _ranks(values: Tensor) -> Tensor:
    order = values.reshape(-1).argsort(stable=True)
    ranks = values.new_empty(values.numel())
    ranks[order] = values.new_tensor(range(values.numel()))
    return ranks.reshape(values.shape)


def _lamp(weight: Tensor) -> Tensor:
    energy = weight.double().square().reshape(-1)
    order = energy.argsort(descending=True, stable=True)
    scores = energy.new_zeros(energy.numel())
    scores[order] = energy[order] / energy[order].cumsum(0).clamp(min=1e-300)
    return scores.reshape(weight.shape)
