"""How far a network carries the rounding of fp32: what a file is allowed where 1e-4 of the outputs are not enough.

A dot product of n terms in fp32 is the exact one of weights that are each off by about √n · 2⁻²⁴ of themselves, in
whatever order it is summed (Higham & Mary 2019, doi 10.1137/18M1226312). What becomes of that depends on the network:
where large products cancel, as on a plain background, and a batch norm divides what is left by a small deviation, it
grows. EfficientNet-Lite0 is such: on photographs with a plain background it carries rounding several times as far as on
noise (`studies/real/roundoff.md`), and after an epoch of fine-tuning PyTorch itself, by its kernels for one image, was
further than 1e-4 from float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dwindle.export.answers import outputs_of
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.export.target import Outputs

DRAWS, FURTHEST = 8, 8
"""How often the weights are drawn, and for how many samples."""

UNIT = 2.0**-24
"""The most that fp32 rounds a number by, over the number."""


def carried(
    network: nn.Module, outputs: Outputs, reference: Outputs, samples: tuple[Tensor, ...], batch: int = 1
) -> list[float]:
    """How far two computations of a flat network in fp32 may be apart in each output, over the largest of `reference`.

    Each may be as far from the exact network as one in float64 is whose weights are off at random by what its sums
    round: the farthest of DRAWS, on the samples for which `outputs` and `reference` are furthest apart.

    network: in eval mode, on the CPU. samples: what was run, `batch` at once. Zero for whole numbers, and where the
    network does not run in float64 or the shapes of its outputs follow from their values.
    """
    import numpy as np

    groups, largest = len(samples[0]) // batch, [float(np.abs(one).max()) or 1.0 for one in reference]
    pairs = list(zip(outputs, reference, largest, strict=True))
    try:
        apart = [np.abs(ours - theirs).reshape(groups, -1).max(1) / most for ours, theirs, most in pairs]
        worst = np.max(apart, 0).argsort()[-FURTHEST:]
        rows = [batch * place + row for place in worst for row in range(batch)]
        off = _noise(network, tuple(tensor[rows] for tensor in samples), batch)
    except Exception:  # of the model's own code, in a type that it was not written for
        return [0.0 for _ in reference]
    return [2 * far / most if one.dtype.kind == "f" else 0.0 for far, (_, one, most) in zip(off, pairs, strict=True)]


def _noise(network: nn.Module, samples: tuple[Tensor, ...], batch: int) -> list[float]:
    """How far the weights that are drawn put each output off, at most."""
    import numpy as np

    doubles = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in samples)
    exact = outputs_of(_exact(network), doubles, batch)
    drawn = [outputs_of(_drawn(network, seed), doubles, batch) for seed in range(DRAWS)]
    return [max(float(np.abs(each[i] - one).max()) for each in drawn) for i, one in enumerate(exact)]


def _exact(network: nn.Module) -> nn.Module:
    return copied(network, lambda _, tensor: tensor.double() if tensor.is_floating_point() else tensor)


def _drawn(network: nn.Module, seed: int) -> nn.Module:
    """The network in float64, its tensors off as the sums are that they are used in: vectors by one rounding."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def off(_: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        terms = tensor[0].numel() if tensor.dim() > 1 and len(tensor) else 1
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor.double() * (1 + math.sqrt(terms) * UNIT * noise)

    return copied(network, off)
