"""What samples say of a layer: how many of them memory takes, and the moments of what a layer is shown and gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.models.layerwise.moments import Moments
from dwindle.models.layerwise.products import Product
from dwindle.models.layerwise.samples import spread

BATCH = 2**23
"""Numbers in a batch's largest input and output of a layer, at most: 32 MB in float32."""
CHUNK = 2**22
"""Numbers of a layer's inputs that are multiplied at a time, at most."""
POSITIONS, FEWEST = 64, 2**14
"""Of a layer's positions, as many are drawn as POSITIONS times its inputs, or FEWEST if that is more: beyond it,
neighbouring pixels say the same again, and the moments' errors are below what damping makes of them."""
WORK, FEW = 2**41, 4
"""Multiply-adds of a Gram matrix, at most: about a minute of a core. Of a layer with more than some 3,000 inputs fewer
positions are drawn for it, but no fewer than FEW times its inputs."""
HELD = 6
"""How many times a sample's largest input and output the two networks hold on to between two layers, at most: their
own, a shortcut's, and the outputs wanted."""


@dataclass(frozen=True)
class Batches:
    """Samples in batches."""

    tensors: list[tuple[Tensor, ...]]
    samples: int
    """How many they are, of all batches together."""
    note: str | None
    """The sentence that not all samples are used; None where all are."""


def require_samples(inputs: tuple[Tensor, ...]) -> None:
    """Raises UsageError where samples aren't as many of each input, or fewer than two."""
    if any(len(tensor) != len(inputs[0]) for tensor in inputs):
        raise UsageError(
            f"the calibration inputs have {[len(tensor) for tensor in inputs]} samples: give as many of each"
        )
    if len(inputs[0]) < 2:
        raise UsageError(f"{len(inputs[0])} calibration sample: give hundreds")


def batched(inputs: tuple[Tensor, ...], largest: int) -> Batches:
    """The samples in batches; where memory is short for all, evenly spread ones of them.

    `largest`: numbers per sample in the largest input and output of any layer, together.
    """
    samples, note = len(inputs[0]), None
    if (fit := _fitting(largest)) < samples and inputs[0].device.type == "cpu":
        note = f"{fit:,} of {samples:,} calibration samples are used: more would not fit in memory"
        inputs, samples = spread(inputs, fit), fit
    count = min(math.ceil(samples * largest / BATCH), samples // 2)
    return Batches(list(zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True)), samples, note)


def moments_of(
    product: Product, rows: Tensor, inputs: Sequence[Tensor], outputs: Sequence[Tensor], seed: int
) -> Moments:
    """The moments of a layer's inputs and the outputs wanted, a tensor of each for every batch.

    `rows`: its weights as matrices. `seed`: of the positions that are drawn where there are more than enough.
    """
    moments = Moments.zeros(len(rows), rows.shape[2], rows.shape[1], rows.device)
    samples = sum(map(len, inputs))
    for given, wanted in zip(inputs, outputs, strict=True):
        there = product.positions(wanted)
        enough = math.ceil(_enough(product.inputs) * len(given) / samples)
        if there > enough:
            draw = torch.Generator().manual_seed(seed)
            positions = torch.randperm(there, generator=draw)[:enough].sort().values.to(wanted.device)
        else:
            positions = torch.arange(there, device=wanted.device)
        for part in positions.split(max(1, CHUNK // (len(rows) * rows.shape[2]))):
            moments.add(product.gather_inputs(given, part), product.gather_outputs(wanted, part))
    return moments


def _enough(inputs: int) -> int:
    """How many positions the moments of a layer with so many inputs take, at most."""
    return max(FEWEST, min(POSITIONS * inputs, max(FEW * inputs, WORK // inputs**2)))


def _fitting(largest: int) -> int:
    """How many samples fit in half of the memory that is free."""
    free: int = psutil.virtual_memory().available
    return max(2, free // 2 // (HELD * 4 * max(1, largest)))
