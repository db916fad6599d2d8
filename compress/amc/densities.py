"""Allocations of single weights: how many survive in each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from dwindle.compress.amc.allocation import Layer
from dwindle.compress.amc.features import describe
from dwindle.compress.layers import Layers
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import Tensor


class Densities:
    """The space of unstructured pruning: each weight tensor keeps its largest weights. The cost is how many survive."""

    currency = "weights"

    def __init__(self, model: nn.Module, layers: Layers, inputs: tuple[Tensor, ...]) -> None:
        """`inputs` is one sample as a batch of one, from which each layer's place and MACs are found."""
        weights = layers.of(model)
        self.model = model
        self.layers = tuple(
            Layer(name, weights[name].numel(), features) for name, features in describe(model, weights, inputs)
        )
        self._order = {
            layer.name: weights[layer.name].detach().abs().reshape(-1).argsort(descending=True, stable=True)
            for layer in self.layers
        }

    def cost(self, kept: Sequence[int]) -> int:
        return sum(kept)

    @torch.no_grad()
    def apply(self, kept: Sequence[int]) -> nn.Module:
        model = copied(self.model)
        for layer, count in zip(self.layers, kept, strict=True):
            weight = model.get_parameter(layer.name)
            mask = torch.zeros(layer.units, dtype=weight.dtype, device=weight.device)
            mask[self._order[layer.name][:count]] = 1
            weight.mul_(mask.reshape(weight.shape))
        return model
