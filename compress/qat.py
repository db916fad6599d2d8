"""Training through the rounding of a target (quantisation-aware training), with straight-through gradients.

Between two optimizer steps the network holds rounded weights, so that losses and gradients are of those; the exact ones
are held here, and take what each step changes. The task sees an ordinary module, whose weights are where they were, and
the exact weights are back in it whenever it is pruned, saved or judged. Batch norm that is folded into a layer stands
still over the last of these steps, as it will in the file. At w8a8 what layers read is rounded too, by hooks, each
batch over the range that it has: nothing about ranges has to be saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from dwindle.compress.qat_palette import by_palette
from dwindle.errors import UsageError
from dwindle.export.fold import Pair, fold, foldable
from dwindle.export.quantize import LARGEST, LARGEST_INT4, MIXED, PALETTES, SCALES
from dwindle.export.sums import Sum

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from dwindle.export.target import Target

PRECISIONS = ("int8", "int4", *PALETTES, MIXED, "w8a8")
"""What can be trained through; at w8a8 activations too, whose ranges are calibrated at export."""

_COMPUTING = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.RNNCellBase)
"""The layers that compute in int8 at w8a8."""
STILL_SHARE = 0.1
"""Over what share of a training batch norm stands still, its last steps, where learning rates are low. It keeps what a
layer gives in bounds while the weights move fast: without it, at half of a cosine from 0.2, ResNet-8's loss became NaN
within ten steps."""
_STILL = 5
"""After how many rounded steps that change no weight something else is taken to be trained."""
_LEAST_STEP = 2**-12
"""The smallest scale of activations, as at export (`w8a8_convert.converted`)."""


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
    rows: int = 0
    """The dimension each of whose elements has scales of its own."""
    palette: int = 0
    """The bits of a code of the palette; 0: codes are numbers."""
    exact: Tensor | None = None
    """The exact values, while the parameter holds rounded ones."""
    rounded: Tensor | None = None
    """What the parameter was set to."""


class Rounding:
    """Rounds a network's weights between optimizer steps. `round` and `absorb` take turns."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], target: Target) -> None:
        """model: the network that is trained. inputs: what it takes, one sample as a batch of one.

        target: at one of PRECISIONS; it says which weights have how many bits, as for a file
        (`Target.trained_through`).
        """
        self._model = model
        folds = foldable(model, inputs)
        norms = {pair.layer: pair.norm for pair in folds if isinstance(pair, Pair)}
        added = {path for one in folds if isinstance(one, Sum) for path in one.replaced}
        held = target.trained_through(fold(model, folds), inputs)
        self._weights: list[_Weight] = []
        self._layers: list[nn.Module] = []
        self._norms = [model.get_submodule(path) for path in norms.values()]
        self._reading: list[RemovableHandle] = []
        self._frozen: list[RemovableHandle] = []
        self._still: int | None = 0
        """How many rounded steps have changed no weight; None once one has."""
        for name, parameter in model.named_parameters():
            form, path = held.get(name), name.rpartition(".")[0]
            if form is None or path in added:
                continue  # a branch that is merged into another, or others into it
            layer = model.get_submodule(path)
            computes = target.calibrates and isinstance(layer, _COMPUTING) and parameter.dim() > 1
            if form.scale is None and form.palette is None and not computes:
                continue
            norm = model.get_submodule(norms[path]) if path in norms and name.endswith(".weight") else None
            axis = 1 if getattr(layer, "transposed", False) else 0
            if computes and layer not in self._layers:
                self._layers.append(layer)
            largest = LARGEST_INT4 if form.kind == "int4" else LARGEST
            blocks = 1 if computes or form.scale is None or form.axis is not None else form.scale.shape[1]
            rows = axis if computes else form.axis or 0
            palette = 0 if form.palette is None else form.bits
            self._weights.append(_Weight(parameter, largest, blocks, norm, axis, rows, palette))

    @torch.no_grad()
    def round(self, *, frozen: bool = True) -> None:
        """Sets the network's weights, which are exact, to rounded ones, and rounds activations from here on.

        frozen: whether batch norm that is folded stands still from here on.
        Raises UsageError where what is trained is not the network, but another one that a task made of it.
        """
        if self._still is not None and self._still >= _STILL:
            raise UsageError(
                f"{self._still} steps through the rounding have changed no weight of the model: with `qat` the task's "
                "`fit` must train the model that it is given, not a copy or one that it builds; or leave out `qat`",
                code="rebuilt-model",
                option="qat",
                name="fit",
            )
        if not self._reading:
            self._reading = [layer.register_forward_pre_hook(_round_inputs) for layer in self._layers]
        if frozen and not self._frozen:
            self._frozen = [norm.register_forward_pre_hook(_freeze) for norm in self._norms]
        for weight in self._weights:
            weight.exact = weight.parameter.detach().clone()
            weight.rounded = _rounded(weight)
            weight.parameter.copy_(weight.rounded)
        if self._still is not None and self._weights:
            self._still += 1

    @torch.no_grad()
    def absorb(self) -> None:
        """Sets the network's weights to the exact ones, with what a step has changed since `round`."""
        for weight in self._weights:
            if weight.exact is None or weight.rounded is None:
                continue
            changed = weight.parameter - weight.rounded.to(weight.parameter.device)
            if self._still is not None and bool(changed.any()):
                self._still = None
            weight.parameter.copy_(weight.exact.to(changed.device) + changed)
            weight.exact = weight.rounded = None

    @torch.no_grad()
    def close(self) -> None:
        """Leaves the network as it was given: its weights exact, its modules without hooks.

        A weight that is no longer what `round` made of it was put there when the training ended, as an average or the
        best epoch: it stays as it is.
        """
        for weight in self._weights:
            parameter, exact, rounded = weight.parameter, weight.exact, weight.rounded
            if exact is not None and rounded is not None and torch.equal(parameter, rounded.to(parameter.device)):
                parameter.copy_(exact)
            weight.exact = weight.rounded = None
        if self._frozen:
            for norm in self._norms:
                norm.train(self._model.training)
        for hook in (*self._reading, *self._frozen):
            hook.remove()
        self._reading, self._frozen = [], []


def first_step(share: float, steps: int) -> int:
    """The number of steps after which weights are rounded, of a training that takes `steps`.

    >>> first_step(0.3, 100)
    70
    """
    return steps - math.ceil(share * steps)


def _freeze(norm: nn.Module, _: Any) -> None:
    """Before batch norm computes: by its running statistics, which stay as they are."""
    norm.eval()


def _round_inputs(_: nn.Module, given: tuple[Any, ...]) -> Any:
    """Before a layer computes: rounds what it reads, and a recurrent cell's state."""
    return tree_map_only(torch.Tensor, _in_steps, given)


def _in_steps(x: Tensor) -> Tensor:
    """Values rounded to 256 steps over their range, zero among them."""
    exact = x.float()
    low, high = exact.detach().aminmax()
    # Of a mask's infinities the file's range takes no notice: it is that of the finite values, and of zero. Whether
    # there are any is looked up where that costs nothing: not on a GPU, which would be waited for, nor in a trace.
    unknown = exact.device.type != "cpu" or torch.compiler.is_compiling()
    if unknown or not (low.isfinite() and high.isfinite()):
        low, high = exact.detach().nan_to_num(0, 0, 0).aminmax()
        exact = exact.clamp(low.clamp(max=0), high.clamp(min=0))
    scale = ((high.clamp(min=0) - low.clamp(max=0)) / 255).clamp(min=_LEAST_STEP)
    rounded: Tensor = _Steps.apply(exact, scale)
    return rounded.to(x.dtype)


class _Steps(torch.autograd.Function):
    """Values rounded to multiples of a scale, through which gradients pass straight.

    `torch.fake_quantize_per_tensor_affine` gives the same values, and takes six times as long on a CPU: it clamps them
    to the codes, which ranges of their own never exceed, and its loop is not vectorised.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> Tensor:
        return (x * (1 / scale)).round_().mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept for the gradient."""

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _rounded(weight: _Weight) -> Tensor:
    """A weight as its file will hold it, batch norm's scale taken out of it again. Pruned weights stay zero."""
    exact = weight.parameter.detach().float()
    scaling = _scaling(weight, exact)
    folded = exact * scaling
    turned = folded.movedim(weight.rows, 0)
    if weight.palette:
        decoded = by_palette(turned.reshape(len(turned), -1), weight.palette)
    else:
        rows = turned.reshape(len(turned) * weight.blocks, -1)
        scale = _on_grid(rows.abs().amax(1) / weight.largest)[:, None]
        decoded = (rows / scale).round().clamp(-weight.largest, weight.largest) * scale
    folded = decoded.reshape(turned.shape).movedim(0, weight.rows)
    return torch.where(scaling == 0, exact, folded / scaling).to(weight.parameter.dtype)


def _on_grid(needed: Tensor) -> Tensor:
    grid = torch.from_numpy(SCALES.astype(np.float32)).to(needed.device)
    return grid[torch.searchsorted(grid, needed).clamp(max=len(grid) - 1)]


def _scaling(weight: _Weight, exact: Tensor) -> Tensor:
    """What batch norm multiplies each output channel by, in a shape that broadcasts to the weight."""
    norm = weight.norm
    if norm is None:
        return torch.ones((), device=exact.device)
    scaling = torch.rsqrt(norm.running_var + norm.eps)
    scaling = scaling if norm.weight is None else norm.weight * scaling
    return scaling.detach().float().reshape([-1 if axis == weight.axis else 1 for axis in range(exact.dim())])
