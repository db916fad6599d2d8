"""Training through the rounding of a target's weights (quantisation-aware training), with straight-through gradients.

Between two optimizer steps the network holds rounded weights, so that losses and gradients are of those; the exact ones
are held here, and take what each step changes. The task sees an ordinary module, whose weights are where they were, and
the exact weights are back in it whenever it is pruned, saved or judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dwindle.export.fold import Pair, fold, foldable
from dwindle.export.quantize import LARGEST, LARGEST_INT4, SCALES, stored

if TYPE_CHECKING:
    from torch import Tensor, nn

PRECISIONS = ("int8", "int4", "w8a8")
"""What can be trained through: scaled codes. Of w8a8 the weights are; its activations are calibrated at export."""


@dataclass
class _Weight:
    """A weight that the target rounds."""

    parameter: nn.Parameter
    largest: int
    """The largest code."""
    blocks: int
    """How many scales each row has."""
    norm: Any
    """The batch norm that is folded into it; None: there is none."""
    axis: int
    """The weight's output channels, which batch norm scales."""
    exact: Tensor | None = None
    """The exact values, while the parameter holds rounded ones."""
    rounded: Tensor | None = None
    """What the parameter was set to."""


class Rounding:
    """Rounds a network's weights between optimizer steps. `round` and `absorb` take turns."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], precision: str) -> None:
        """model: the network that is trained. inputs: what it takes, one sample as a batch of one. precision: one of
        PRECISIONS; which weights have how many bits is decided as for a file (`quantize.stored`)."""
        folds = foldable(model, inputs)
        norms = {pair.layer: pair.norm for pair in folds if isinstance(pair, Pair)}
        held = stored(fold(model, folds), "int8" if precision == "w8a8" else precision)
        self._weights: list[_Weight] = []
        for name, parameter in model.named_parameters():
            form = held.get(name)
            if form is None or form.scale is None:
                continue
            path = name.rpartition(".")[0]
            transposed = getattr(model.get_submodule(path), "transposed", False)
            norm = model.get_submodule(norms[path]) if path in norms and name.endswith(".weight") else None
            largest = LARGEST_INT4 if form.kind == "int4" else LARGEST
            self._weights.append(_Weight(parameter, largest, form.scale.shape[1], norm, 1 if transposed else 0))

    @torch.no_grad()
    def round(self) -> None:
        """Sets the network's weights, which are exact, to rounded ones."""
        for weight in self._weights:
            weight.exact = weight.parameter.detach().clone()
            weight.rounded = _rounded(weight)
            weight.parameter.copy_(weight.rounded)

    @torch.no_grad()
    def absorb(self) -> None:
        """Sets the network's weights to the exact ones, with what a step has changed since `round`."""
        for weight in self._weights:
            if weight.exact is None or weight.rounded is None:
                continue
            changed = weight.parameter - weight.rounded.to(weight.parameter.device)
            weight.parameter.copy_(weight.exact.to(changed.device) + changed)
            weight.exact = weight.rounded = None


def first_step(share: float, steps: int) -> int:
    """The number of steps after which weights are rounded, of a training that takes `steps`.

    >>> first_step(0.3, 100)
    70
    """
    return steps - math.ceil(share * steps)


def _rounded(weight: _Weight) -> Tensor:
    """A weight as its file will hold it, batch norm's scale taken out of it again. Pruned weights stay zero."""
    exact = weight.parameter.detach().float()
    scaling = _scaling(weight, exact)
    folded = exact * scaling
    rows = folded.reshape(len(folded) * weight.blocks, -1)
    grid = torch.from_numpy(SCALES.astype(np.float32)).to(exact.device)
    needed = rows.abs().amax(1) / weight.largest
    scale = grid[torch.searchsorted(grid, needed).clamp(max=len(grid) - 1)][:, None]
    codes = (rows / scale).round().clamp(-weight.largest, weight.largest)
    return torch.where(scaling == 0, exact, (codes * scale).reshape(folded.shape) / scaling).to(weight.parameter.dtype)


def _scaling(weight: _Weight, exact: Tensor) -> Tensor:
    """What batch norm multiplies each output channel by, in a shape that broadcasts to the weight."""
    norm = weight.norm
    if norm is None:
        return torch.ones((), device=exact.device)
    scaling = torch.rsqrt(norm.running_var + norm.eps)
    scaling = scaling if norm.weight is None else norm.weight * scaling
    return scaling.detach().float().reshape([-1 if axis == weight.axis else 1 for axis in range(exact.dim())])
