"""Masks: which weights survive, and the one call that keeps the others at zero."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


WEIGHT = re.compile(r"weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?$")
"""The names of weight tensors in PyTorch's layers, those of recurrent cells and those that torch.nn.RNNBase (LSTM, GRU)
numbers included."""


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weight tensors that pruning chooses from, by parameter name.

    Every trainable weight matrix or kernel: first convolution, projections, recurrent layers, classifier
    and embeddings included; batch norm, biases, layer scales and tokens exempt (Renda et al. 2020, §2). A
    weight that two modules share appears once; a frozen one is left alone.
    """
    gains = _gains(model)
    return {name: weight for name, weight in _matrices(model) if WEIGHT.search(name) and id(weight) not in gains}


def unnamed(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable matrices and kernels that pruning skips because they have another name, such as those
    behind a parametrization."""
    gains = _gains(model)
    return {name: weight for name, weight in _matrices(model) if not WEIGHT.search(name) and id(weight) not in gains}


def _gains(model: nn.Module) -> set[int]:
    """The parameters of norms, by identity: a gain for each of an image's elements has three dimensions."""
    from torch.nn import GroupNorm, LayerNorm, RMSNorm
    from torch.nn.modules.batchnorm import _NormBase

    norms = (module for module in model.modules() if isinstance(module, (_NormBase, GroupNorm, LayerNorm, RMSNorm)))
    return {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the trainable parameters of two or more dimensions, with their names."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and parameter.requires_grad:
            yield name, parameter


def density(masks: Mapping[str, Tensor]) -> float:
    """Returns the surviving share of all prunable weights, in [0, 1]."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def mask_applier(model: nn.Module, masks: Mapping[str, Tensor]) -> Callable[[], None]:
    """Returns a function that sets the model's pruned weights to zero, in place, by one fused call.

    It has to run after every optimizer step: momentum and weight decay move pruned weights.
    """
    weights = dict(model.named_parameters())
    # The parameters themselves, not their data: a task may lay those out anew, as channels last, or on a GPU.
    parameters: list[Tensor] = [weights[name] for name in masks]
    factors = [mask.to(weights[name]) for name, mask in masks.items()]

    @torch.no_grad()
    def apply() -> None:
        for i, parameter in enumerate(parameters):
            if (factors[i].stride(), factors[i].device) != (parameter.stride(), parameter.device):
                factors[i] = torch.empty_like(parameter).copy_(factors[i])
        if parameters:
            torch._foreach_mul_(parameters, factors)

    return apply


def masks_of_zeros(model: nn.Module) -> dict[str, Tensor]:
    """The masks of a network that comes pruned, or dense: True where a prunable weight is not zero."""
    return {name: weight.detach() != 0 for name, weight in prunable(model).items()}


def masks_hold(model: nn.Module, masks: Mapping[str, Tensor]) -> bool:
    """Returns whether every pruned weight of the model is zero."""
    weights = dict(model.named_parameters())
    return all(not weights[name][~mask].any() for name, mask in masks.items())
