"""Batch-norm recalibration: statistics that fit the weights as they are now."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dwindle.compress.asked import asked
from dwindle.models import ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.task import Task

BATCH = 2**23
"""How many numbers a batch's inputs may have: 2,730 images of 3×32×32, 55 of 3×224×224."""


def source(task: Task) -> Callable[[], tuple[Tensor, ...]] | None:
    """What gives the inputs to recalibrate by: as the task's `fit` shows them, if it can tell, or else as its training
    split has them; None where it has neither."""
    plain = partial(task.inputs, "train") if hasattr(task, "inputs") else None
    return getattr(task, "training_inputs", plain)


def norms(model: nn.Module) -> list[_BatchNorm]:
    """Its batch norms that keep running statistics."""
    return [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def recalibrate_by(task: Task, model: nn.Module) -> None:
    """Recalibrates `model` by what `source` gives, in place; raises as `asked` does. Without batch norm, nothing.

    One rank does it for all: another machine's kernels may sum in another order, and ranks have to agree to the bit.
    """
    if not norms(model):
        return
    shown = source(task)
    assert shown is not None

    def anew() -> list[Tensor]:
        with asked("inputs to recalibrate by"):
            recalibrate(model, shown())
        return list(model.buffers())

    for buffer, found in zip(model.buffers(), ranks.broadcast_from_first(anew), strict=True):
        buffer.copy_(found)


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Replaces the running statistics of every batch norm by those of `inputs`, in place.

    A candidate judged with the dense network's statistics is judged far too low, and not by the same amount
    as its neighbour (EagleEye, Li et al. 2020, §3.3). So is a network after a short retraining: where pruning
    made a channel all but constant, its variance is less than batch norm's epsilon, and what the running mean
    lags behind by, a hundredth of an activation, is divided by the root of that.

    `inputs`: tensors of shape (N, …). They go through in one batch, so that each norm's statistics are exactly
    those of what inference will show it: averaged over small batches they are not, where few images make a
    channel respond, and every norm after it is fitted to something else. Inputs of more than BATCH numbers
    take several; their many pixels make up for it.
    """
    if not (own := norms(model)):
        return
    device = next(model.parameters()).device
    modes = {part: part.training for part in model.modules()}
    momenta = [norm.momentum for norm in own]
    # Only batch norm is in training mode: dropout would shift the statistics from those of inference.
    model.eval()
    for norm in own:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.training = True
    try:
        count = min(math.ceil(max(tensor.numel() for tensor in inputs) / BATCH), max(1, len(inputs[0]) // 2))
        for batch in zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True):
            model(*(part.to(device) for part in batch))
    finally:
        for norm, momentum in zip(own, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
