"""Weights in fewer bits, the same for every target: what a file stores, and the network that it then holds.

int8 is symmetric, with a scale per row of the first dimension (a convolution's or linear layer's output
channel), so that a pruned weight stays exactly zero. Scales lie on a grid of 256: a byte each in a file.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError
from dwindle.export.fold import deployable, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["fp32", "fp16", "int8"]
LARGEST = 127
"""Of an int8 code; −128 is left out, as the range is symmetric."""
SCALES = np.geomspace(2.0**-14, 65504 / LARGEST, 256).astype(np.float16)
"""Every scale there is: from fp16's smallest normal number up to where int8 covers the whole of fp16.

Steps of 6.5% cost a quarter of a decibel on average. Fp16 holds each exactly, and fp32 each product with a code.
"""
_ROW = 8
"""Weights that a row must have for a scale of its own to be worth its byte."""


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it."""

    values: NDArray[Any]
    scale: NDArray[np.uint8] | None = None
    """For int8 values: the place in SCALES of each row's scale, shape (rows, 1, …)."""

    def decoded(self) -> NDArray[Any]:
        """The tensor that a runtime computes with: fp32, or what isn't float unchanged."""
        if self.scale is not None:
            return self.values.astype(np.float32) * SCALES.astype(np.float32)[self.scale]
        return self.values.astype(np.float32) if self.values.dtype == np.float16 else self.values


def stored(network: nn.Module, precision: str) -> dict[str, Stored]:
    """Every parameter and buffer of a network (`fold.deployable`'s) at a precision, by name.

    At int8, what has no rows long enough for a scale (biases, norms) is fp16. Raises UsageError for a weight
    beyond the reach of the precision.
    """
    return {name: store(name, tensor.numpy(), precision) for name, tensor in tensors(network).items()}


def store(name: str, array: NDArray[Any], precision: str) -> Stored:
    """One tensor at a precision; `name` is for the message. Raises as `stored` does."""
    if array.dtype != np.float32 or not array.ndim or not array.size or precision == "fp32":
        return Stored(array)
    if not (np.abs(array) <= np.finfo(np.float16).max).all():
        raise UsageError(f"{name} has values beyond 65504, where {precision} ends: scale it down")
    if precision == "int8" and array.ndim > 1 and array[0].size >= _ROW:
        return _int8(array)
    return Stored(array.astype(np.float16) + np.float16(0))  # + 0: no negative zeros


def as_shipped(module: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> nn.Module:
    """What a file of a network as it is trained computes, in fp32: batch norm folded, weights rounded.

    `inputs` are what it takes, one sample as a batch of one. The network itself at fp32, which rounds nothing.
    Raises UsageError as `deployable` and `stored` do.
    """
    if precision == "fp32":
        return module
    network = deployable(module, inputs)
    return quantized(network, stored(network, precision))


def quantized(network: nn.Module, held: dict[str, Stored]) -> nn.Module:
    """The network that a file with these tensors holds, in fp32.

    Raises AssertionError should a pruned weight have come back to life.
    """
    import torch

    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in tensors(copied).items():
            decoded = torch.from_numpy(np.array(held[name].decoded()))
            assert not ((tensor == 0) & (decoded != 0)).any(), f"{name} was pruned, and is no longer"
            tensor.copy_(decoded)
    return copied


def _int8(array: NDArray[np.float32]) -> Stored:
    rows = array.reshape(len(array), -1)
    needed = np.abs(rows).max(1) / LARGEST
    scale = np.minimum(np.searchsorted(SCALES.astype(np.float32), needed), SCALES.size - 1)
    codes = np.rint(rows / SCALES.astype(np.float32)[scale, None]).clip(-LARGEST, LARGEST).astype(np.int8)
    column = scale.astype(np.uint8).reshape(-1, *[1] * (array.ndim - 1))
    return Stored(codes.reshape(array.shape), column)
