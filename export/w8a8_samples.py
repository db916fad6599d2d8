"""The samples that ranges of activations are taken from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.fold import distinct, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn


def noise_like(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Noise of the shapes of a network's inputs, for what depends on ranges and not on which."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(one.shape, generator=generator) if one.is_floating_point() else one for one in inputs)


def untrained(network: nn.Module) -> nn.Module:
    """A copy whose floating-point values all differ, its weights of the size that networks are initialised with (He et
    al. 2015): however deep it is, what it makes of noise stays finite, so that ranges follow."""
    import torch

    made = distinct(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in tensors(made).values():
            if tensor.is_floating_point() and tensor.dim() > 1:
                bound = math.sqrt(6 / tensor[0].numel())
                tensor.uniform_(-bound, bound, generator=generator)
    return made


def check_samples(samples: tuple[Tensor, ...]) -> None:
    """Raises UsageError for samples from which no range of activations follows."""
    if not samples or not all(len(tensor) for tensor in samples):
        raise UsageError(
            "there are no samples to calibrate int8 on: return some from the task's `inputs` of the training split",
            code="no-samples",
            name="inputs",
        )
    for tensor in samples:
        if not tensor.is_floating_point():
            continue  # token ids, say, which are not rounded
        if not tensor.isfinite().all():
            raise UsageError(
                "the samples to calibrate int8 on are not all finite: check the task's `inputs` of the training split",
                code="not-finite",
                name="inputs",
            )
        if tensor.min() == tensor.max():
            raise UsageError(
                f"the samples to calibrate int8 on are all {float(tensor.min()):g}, from which no range of values "
                "follows: return real ones from the task's `inputs` of the training split",
                code="constant-samples",
                name="inputs",
            )
