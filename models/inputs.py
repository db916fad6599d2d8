"""Inputs and weights in the form in which an app holds them, whatever form a task or a model keeps them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dwindle.errors import DwindleError, UsageError, one_line

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


@contextmanager
def taken(samples: tuple[Tensor, ...], split: str) -> Iterator[None]:
    """Within it a network runs on samples of the task's `inputs` of a split; UsageError says where it can't."""
    try:
        yield
    except DwindleError:
        raise
    except Exception as error:  # whatever a model makes of inputs that it can't take
        shapes = ", ".join(str((1, *tensor.shape[1:])) for tensor in samples)
        raise UsageError(
            f"the model can't take the task's `inputs` of the {split} split, {shapes} ({one_line(error)}): return "
            "samples such as `example_inputs` has",
            code="doesnt-fit",
            name="inputs",
        ) from error
