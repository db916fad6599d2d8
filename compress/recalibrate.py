"""Batch-norm recalibration: statistics that fit the weights as they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 64


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Replaces the running statistics of every batch norm by those of `inputs`, in place.

    A candidate judged with the dense network's statistics is judged far too low, and not by the same amount
    as its neighbour (EagleEye, Li et al. 2020, §3.3). So is a network after a short retraining, where pruning
    made activations orders of magnitude smaller: a running average still remembers them as they were.

    `inputs`: tensors of shape (N, …), taken in batches of about BATCH; means and variances are the averages
    over batches.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not norms:
        return
    device = next(model.parameters()).device
    modes = {part: part.training for part in model.modules()}
    momenta = [norm.momentum for norm in norms]
    # Only batch norm is in training mode: dropout would shift the statistics from those of inference.
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.training = True
    try:
        count = max(1, round(len(inputs[0]) / BATCH))
        for batch in zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True):
            model(*(part.to(device) for part in batch))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
