"""Batch-norm recalibration: statistics that fit the weights as they are now."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dwindle.models import ranks
from dwindle.models.task_values import users_code

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask

BATCH = 2**23
"""How many numbers the inputs of one batch may have: 2,730 images of 3×32×32, 55 of 3×224×224."""


def can_recalibrate(task: CheckedTask) -> bool:
    """Whether the task has real inputs to recalibrate batch norm by."""
    return task.has("training_inputs") or task.has("inputs")


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a model that keep running statistics."""
    return [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]


def recalibrate_by(task: CheckedTask, model: nn.Module) -> None:
    """Recalibrates `model`, in place, by the task's `training_inputs`; does nothing to a model without batch norm.

    The first rank recalibrates for all: another machine's kernels may sum in another order, and ranks have to agree
    to the bit. Raises DwindleError where the model does not take these inputs.
    """
    if not norms(model):
        return

    def recalibrated() -> list[Tensor]:
        inputs = task.training_inputs()
        with users_code("training_inputs" if task.has("training_inputs") else "inputs", " as the model's inputs"):
            recalibrate(model, inputs)
        return list(model.buffers())

    for buffer, found in zip(model.buffers(), ranks.broadcast_from_first(recalibrated), strict=True):
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
