"""Inputs and weights in the form in which an app holds them, whatever form a task or a model keeps them in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def row_major(tensor: Tensor) -> Tensor:
    """The tensor with the strides that its shape has by default; itself where it has them already.

    A converter may take strides for a part of the contract: the file of a channels_last example then expects the bytes
    of every input in that order, and says so nowhere. (`Tensor.contiguous` leaves the strides of dimensions of one.)
    """
    import torch

    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def as_fed(tensor: Tensor) -> Tensor:
    """The tensor as an app would feed it to an exported file: on the CPU, row-major, floats in float32.

    Integers and booleans keep their type: token ids stay int64.
    """
    plain = tensor.detach().cpu()
    return row_major(plain.float() if plain.is_floating_point() else plain)
