"""What a flat network answers to samples, run as a file would be: a few of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwindle.export.target import Outputs, one_by_one
from dwindle.models.signature import outputs_of as given

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


def outputs_of(module: nn.Module, samples: tuple[Tensor, ...], batch: int = 1) -> Outputs:
    """A flat network's outputs for each of the samples, `batch` of them at once."""
    import torch

    def infer(sample: list[np.ndarray]) -> list[np.ndarray]:
        return [output.numpy() for output in given(module(*map(torch.from_numpy, sample)))]

    with torch.no_grad():
        return one_by_one(infer, samples, batch)
