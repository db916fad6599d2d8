"""A network of this study, what it takes, and values that tell a right network from a wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dwindle.models.signature import flat, signature_of

TINY = 1e-3
"""Parameters that begin below this (layer scales, relative positions) hide what is behind them."""


@dataclass(frozen=True)
class Made:
    """A network as its library builds it, and one sample as a batch of one."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    keywords: tuple[str, ...] | None = None
    """The names of `forward`'s parameters that the inputs are given to; None: one after the other."""
    trained: bool = False
    """Whether its weights are real ones."""


def image(size: int, channels: int = 3) -> tuple[Tensor, ...]:
    """One image of noise, [1, channels, size, size]."""
    return (torch.randn(1, channels, size, size),)


def ready(made: Made) -> nn.Module:
    """The network in eval mode, flat as dwindle's stages take it, with values in what begins at zero or one."""
    network = made.network.eval()
    if not made.trained:
        _vary(network)
    network.requires_grad_(True)
    network = flat(network, signature_of(network, made.inputs, made.keywords))
    norms = [] if made.trained else [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the average of all batches, here of one
            norm.train()
        with torch.no_grad():
            network(*batch(made.inputs, 4))
    return network.eval()


def batch(inputs: tuple[Tensor, ...], count: int, seed: int = 0) -> tuple[Tensor, ...]:
    """So many samples that differ: the same values in other places."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.cat([x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape) for _ in range(count)])
        for x in inputs
    )


def _vary(network: nn.Module) -> None:
    """Biases and scales start as zeros and ones, behind which a mistake could hide."""
    for module in network.modules():
        kind = type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if "Norm" in kind and name == "weight":
                nn.init.uniform_(parameter, 0.5, 1.5)
            elif parameter.is_floating_point() and float(parameter.detach().abs().max()) < TINY:
                nn.init.normal_(parameter, std=0.1)
