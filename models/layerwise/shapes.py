"""The convolutions and linear layers of a network, with all that their price depends on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dwindle.models.modes import in_mode
from dwindle.price import Shape


@dataclass(frozen=True)
class Call:
    """A layer on one of the inputs that it is given in an inference."""

    layer: str
    """The module's name."""
    shape: Shape
    """With the dense network's widths."""


def calls(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Call]:
    """Each convolution and linear layer of a network, once for every input that it is given in an inference."""
    found: list[Call] = []

    def add(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            if given and (shape := _shape(layer, given[0], made)) is not None:
                found.append(Call(name, shape))

        return see

    hooks = [module.register_forward_hook(add(name)) for name, module in model.named_modules() if _priced(module)]
    try:
        with torch.no_grad(), in_mode(model, training=False):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _priced(module: nn.Module) -> bool:
    """Whether a module is priced as a layer. One whose padding is a word counts as the rest."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _shape(layer: nn.Module, given: Tensor, made: Tensor) -> Shape | None:
    """The shape of a layer. A subclass may pad in its own forward pass, as TensorFlow does: its padding is then told
    from the size of what it gives. None where no padding that is alike on both sides leads to that."""
    if isinstance(layer, nn.Linear):
        return Shape(given.shape[-1], len(layer.weight), tuple(given.shape[1:-1]))
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    declared = Shape(
        given.shape[1],
        len(layer.weight),
        tuple(given.shape[2:]),
        tuple(layer.kernel_size),
        tuple(layer.stride),
        tuple(map(int, layer.padding)),
        tuple(layer.dilation),
        layer.groups,
    )
    if declared.spatial == tuple(made.shape[2:]):
        return declared
    each = zip(declared.size, made.shape[2:], declared.kernel, declared.stride, declared.dilation, strict=True)
    lacking = [(out - 1) * s + d * (k - 1) + 1 - n for n, out, k, s, d in each]
    padded = replace(declared, padding=tuple(max(0, math.ceil(one / 2)) for one in lacking))
    return padded if padded.spatial == tuple(made.shape[2:]) else None
