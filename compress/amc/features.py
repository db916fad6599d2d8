"""The features of a layer that AMC's agent decides by, before anything is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dwindle.models.modes import in_mode

if TYPE_CHECKING:
    from torch import Tensor


def describe(
    model: nn.Module, weights: dict[str, nn.Parameter], inputs: tuple[Tensor, ...]
) -> list[tuple[str, tuple[float, ...]]]:
    """Each weight's name and what He et al. 2018 (§3.1) let the agent see of its layer, in the order of first
    use: index, type (0 linear, 1 convolution, 2 grouped), input and output channels, stride, kernel side,
    weights, MACs per sample.

    A layer that the hooks don't see at work, because its parent takes its weight without calling it, comes
    last and counts as applied once.
    """
    owners = {model.get_submodule(name.rpartition(".")[0]): name for name in weights}
    positions: dict[str, int] = {}

    def note(module: nn.Module, _: object, output: object) -> None:
        name = owners[module]
        if isinstance(output, torch.Tensor):
            positions.setdefault(name, max(1, output.numel() // weights[name].shape[0]))

    hooks = [module.register_forward_hook(note) for module in owners]
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), in_mode(model, training=False):
            model(*(tensor.to(device) for tensor in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    names = [*positions, *(name for name in weights if name not in positions)]
    by_name = {name: module for module, name in owners.items()}
    return [
        (name, _features(index, by_name.get(name), weights[name], positions.get(name, 1)))
        for index, name in enumerate(names)
    ]


def _features(index: int, module: nn.Module | None, weight: Tensor, positions: int) -> tuple[float, ...]:
    groups, stride = getattr(module, "groups", 1), getattr(module, "stride", 1)
    kind = 0 if weight.dim() == 2 else 1 if groups == 1 else 2
    return (
        index,
        kind,
        weight.shape[1] * groups if weight.dim() > 1 else 1,
        weight.shape[0],
        stride[0] if isinstance(stride, tuple) else stride,
        weight.shape[-1] if weight.dim() > 2 else 1,
        weight.numel(),
        weight.numel() * positions,
    )
