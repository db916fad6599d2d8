"""What samples say of a layer: how many of them memory takes, and the moments of what a layer is shown and gives."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import psutil
import torch
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.models.layerwise.moments import Moments
from dwindle.models.layerwise.products import Product
from dwindle.models.layerwise.samples import spread
from dwindle.models.layerwise.survey import Survey

BATCH = 2**25
"""Bytes that the forward pass of one batch holds on to, at most: 32 MB."""
CHUNK = 2**22
"""Numbers of a layer's inputs that are multiplied at a time, at most."""
POSITIONS, FEWEST = 64, 2**14
"""Of a layer's positions, as many are drawn as POSITIONS times its inputs, or FEWEST if that is more: beyond it,
neighbouring pixels say the same again, and the moments' errors are below what damping makes of them."""
WORK, FEW = 2**41, 4
"""Multiply-adds of a Gram matrix, at most: about a minute of a core. Of a layer with more than some 3,000 inputs fewer
positions are drawn for it, but no fewer than FEW times its inputs."""
MOST = 36 * 10**8
"""Bytes that forward passes hold on to between two layers, at most, for all samples that are there: 3.6 GB. Where less
than twice that is free, it is halved until it is at most half of what is."""
NETWORKS = 2
"""That are walked through side by side: the one that is changed, and the one whose outputs are wanted."""


@dataclass(frozen=True)
class Batches:
    """Samples in batches."""

    tensors: list[tuple[Tensor, ...]]
    samples: int
    """How many they are, of all batches together."""
    present: Mapping[str, int]
    """By layer: how many of the batches, the first ones, fit in memory from that layer on, as `lockstep` takes it."""
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


def batched(inputs: tuple[Tensor, ...], found: Survey) -> Batches:
    """The samples in batches, of which the later ones join where memory has room for them.

    Large maps come first in most networks. There a few samples have more positions than are needed, and the later
    layers are shown all of them. Where memory is short even for the last layers, evenly spread samples are taken, and
    it is said.
    """
    samples, note, most = len(inputs[0]), None, _most(inputs[0].device)
    fitting = {name: max(2, most // (NETWORKS * max(1, held))) for name, held in found.held.items()}
    if (fit := max(fitting.values(), default=samples)) < samples:
        note = f"{fit:,} of {samples:,} calibration samples are used: more would not fit in memory"
        inputs, samples = spread(inputs, fit), fit
    fewest = min(fitting.values(), default=samples)
    most_held = max(found.held.values(), default=0)
    count = min(max(1, math.ceil(samples * most_held / BATCH), math.ceil(samples / fewest)), samples // 2)
    if fewest < samples:  # each batch is spread over all samples, as the first are all that the first layers see
        batches = [tuple(tensor[first::count] for tensor in inputs) for first in range(count)]
    else:
        batches = list(zip(*(tensor.tensor_split(count) for tensor in inputs), strict=True))
    sizes = list(accumulate(len(batch[0]) for batch in batches))
    present = {name: max(1, bisect_right(sizes, few)) for name, few in fitting.items()}
    return Batches(batches, samples, present, note)


def moments_of(
    product: Product, rows: Tensor, inputs: Sequence[Tensor], outputs: Iterable[Tensor], seed: int
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


def _most(device: torch.device) -> int:
    """How many bytes samples may take on a device while they wait between two layers."""
    free: int = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    most = MOST
    while most > free // 2:
        most //= 2
    return most
