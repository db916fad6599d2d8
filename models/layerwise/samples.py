"""Some of many samples."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """At most `count` samples, evenly spread over all: of each tensor, (N, …), the same ones."""
    whole = len(inputs[0])
    if whole <= count:
        return inputs
    chosen = torch.linspace(0, whole - 1, count).long()
    return tuple(tensor[chosen.to(tensor.device)] for tensor in inputs)
