"""Weights rounded by what it changes for samples: which code each takes is chosen together with its neighbours'.

Layer after layer, in the order of the forward pass: least squares moves the weights to where they make up for what the
rounding of the layers before changed; then codes are chosen one column of the matrix after the other, each error passed
on to the columns that are still free (Frantar et al. 2023, GPTQ), and then improved one by one until none helps; last,
the bias takes up the mean of what is left. The grid of codes is the file format's own, as `quantize.Stored.like` finds
it; zeros stay zeros. Where all that doesn't make a layer better, its weights take the nearest code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dwindle.export.quantize import LARGEST, LARGEST_INT4, Stored, quantized
from dwindle.models.layerwise.collect import batched, moments_of, require_samples
from dwindle.models.layerwise.least_squares import DAMPING, solve
from dwindle.models.layerwise.lockstep import lockstep
from dwindle.models.layerwise.moments import Moments
from dwindle.models.layerwise.parts import with_parts
from dwindle.models.layerwise.products import Product, product
from dwindle.models.layerwise.survey import survey

if TYPE_CHECKING:
    from torch import nn

BLOCK = 64
"""Columns whose errors are passed on among themselves first, and to all others by one product."""
SWEEPS = 4
"""How often every code is tried again, at most."""


class Calibrated:
    """A rounding for `export.target.Target.stored`, by real samples."""

    def __init__(self, samples: tuple[Tensor, ...]) -> None:
        """samples: what the network takes, batched. Raises UsageError where they are fewer than two."""
        require_samples(samples)
        self.samples = samples
        self._last: tuple[nn.Module, list[tuple[str, int | None]], dict[str, Stored]] | None = None

    def __call__(self, network: nn.Module, nearest: dict[str, Stored]) -> dict[str, Stored]:
        """What `calibrated` returns for the samples. The last result is cached."""
        how = [(tensor.precision, tensor.axis) for tensor in nearest.values()]
        if self._last is None or self._last[0] is not network or self._last[1] != how:
            self._last = network, how, calibrated(network, nearest, self.samples)
        return self._last[2]


@torch.no_grad()
def calibrated(network: nn.Module, nearest: dict[str, Stored], inputs: tuple[Tensor, ...]) -> dict[str, Stored]:
    """What a file stores of each tensor of a network (`fold.deployable`'s), by name, rounded by `inputs`, (N, …).

    nearest: the same with the nearest codes, as `quantize.stored` returns it. Layers that are no matrix product, or
    that a forward pass calls more than once, keep those. Raises UsageError where the samples aren't finite, are all the
    same or don't fit the network, DwindleError with the layer's name where what it gives isn't finite.
    """
    held = dict(nearest)
    coded = {name for name, tensor in held.items() if tensor.scale is not None or tensor.palette is not None}
    if not coded:
        return held
    rounded = quantized(network, held)
    with with_parts(network), with_parts(rounded):
        _round(network, rounded, held, coded, inputs)
    return held


def _round(
    network: nn.Module,
    rounded: nn.Module,
    held: dict[str, Stored],
    coded: set[str],
    inputs: tuple[Tensor, ...],
) -> None:
    """Chooses the codes in `held`, those of `coded`, and puts them into `rounded`, layer by layer."""
    matrices = {name: network.get_parameter(name) for name in coded}
    found = survey(network, inputs, matrices)
    taken = batched(inputs, found)
    layers = {name: (network.get_submodule(name), rounded.get_submodule(name)) for name in found.layers}
    with (
        lockstep(
            network, taken.tensors, {name: exact for name, (exact, _) in layers.items()}, "outputs", taken.present
        ) as wanted,
        lockstep(
            rounded, taken.tensors, {name: own for name, (_, own) in layers.items()}, "inputs", taken.present
        ) as given,
    ):
        for seed, (name, (exact, own)) in enumerate(layers.items()):
            shown, outputs = given.advance_to(name), wanted.advance_to(name)
            matrix = product(own)
            assert matrix is not None
            weight = found.layers[name]
            bias = "bias".join(weight.rsplit("weight", 1))
            seen = moments_of(matrix, matrix.rows(exact.get_parameter("weight")), shown.tensors, outputs.tensors, seed)
            has_bias = own._parameters.get("bias") is not None
            chosen = _layer(matrix, exact.get_parameter("weight"), held[weight], seen, centred=has_bias)
            held[weight] = chosen
            own.get_parameter("weight").copy_(_tensor(chosen))
            if has_bias:
                level = seen.bias(matrix.rows(_tensor(chosen))).flatten().float()
                held[bias] = held[bias].like(level.numpy())
                own.get_parameter("bias").copy_(_tensor(held[bias]))
        given.advance()
        wanted.advance()


def _layer(matrix: Product, weight: Tensor, nearest: Stored, moments: Moments, *, centred: bool) -> Stored:
    """The codes of one layer, as its samples choose them; `nearest` where those are as good."""
    if centred:
        moments = moments.centred()
    rows = matrix.rows(weight)
    damping = DAMPING + matrix.inputs / moments.count
    moved = solve(moments, rows, rows != 0, damping).rows
    grid = nearest.like(matrix.weight(moved).float().contiguous().numpy())
    if grid.scale is None and grid.palette is None:  # beyond what codes reach
        return nearest
    found = replace(grid, values=matrix.weight(_codes(matrix, moved, grid, moments, damping)).numpy())

    def error(tensor: Stored) -> float:
        return float(moments.error(matrix.rows(_tensor(tensor))).sum())

    return found if error(found) < error(nearest) else nearest


def _codes(matrix: Product, moved: Tensor, grid: Stored, moments: Moments, damping: float) -> Tensor:
    """int8 codes on the grid, shaped as `matrix.rows` are."""
    shape = grid.values.shape
    step = np.float64(1) if grid.steps is None else grid.steps.astype(np.float64)
    steps = matrix.rows(torch.from_numpy(np.broadcast_to(step, shape).copy()))
    levels = _Levels.of(grid)
    codes = torch.zeros_like(moved, dtype=torch.int8)
    for group, start in enumerate(moved):
        square = moments.inner[group].clone()
        ridge = damping * float(square.diagonal().mean()) or 1.0
        square.diagonal().add_(ridge)
        linear = moments.cross[group].T + ridge * start
        order = square.diagonal().argsort(descending=True)
        one = _Matrix(square[order][:, order], linear[:, order], steps[group][:, order], start[:, order] != 0, levels)
        codes[group][:, order] = levels.codes[one.improved(one.passed_on(start[:, order]))]
    return codes


def _tensor(tensor: Stored) -> Tensor:
    return torch.from_numpy(np.array(tensor.decoded()))


@dataclass(frozen=True)
class _Levels:
    """What a weight may be, over its scale."""

    values: Tensor
    """Ascending, float64."""
    codes: Tensor
    """The int8 code of each."""
    zero: int
    """Where zero is among them."""

    @classmethod
    def of(cls, grid: Stored) -> _Levels:
        if grid.palette is None:
            largest = LARGEST_INT4 if grid.kind == "int4" else LARGEST
            codes = np.arange(-largest, largest + 1)
            values = codes.astype(np.float64)
        else:
            values, codes = np.unique(grid.palette.astype(np.float64), return_index=True)
        zero = int(np.searchsorted(values, 0))
        return cls(torch.from_numpy(values), torch.from_numpy(codes.astype(np.int8)), zero)

    def nearest(self, values: Tensor) -> Tensor:
        """The index of the level that is nearest to each."""
        return torch.bucketize(values, (self.values[1:] + self.values[:-1]) / 2)


@dataclass(frozen=True)
class _Matrix:
    """The rounding of one matrix: for each row q of codes times steps, q·square·qᵀ - 2 q·linear is to be small."""

    square: Tensor
    """(inputs, inputs), positive definite."""
    linear: Tensor
    """(outputs, inputs)."""
    steps: Tensor
    """(outputs, inputs): what a level is multiplied by."""
    alive: Tensor
    """(outputs, inputs), boolean: what isn't zero for good."""
    levels: _Levels

    def passed_on(self, start: Tensor) -> Tensor:
        """The indices of levels, (outputs, inputs), chosen column by column from `start`: each column's error is made
        up for by those after it as well as they can."""
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(torch.linalg.cholesky(self.square)), upper=True)
        if int(failed):
            return self._nearest(start, slice(None))
        left, chosen = start.clone(), torch.empty_like(start, dtype=torch.int64)
        for first in range(0, start.shape[1], BLOCK):
            block = slice(first, first + BLOCK)
            own, errors = upper[block, block], torch.empty_like(left[:, block])
            for column in range(errors.shape[1]):
                at = slice(first + column, first + column + 1)
                chosen[:, at] = self._nearest(left[:, at], at)
                errors[:, column] = (left[:, at] - self._values(chosen[:, at], at))[:, 0] / own[column, column]
                left[:, block][:, column + 1 :] -= errors[:, column, None] * own[column, None, column + 1 :]
            left[:, block.stop :] -= errors @ upper[block, block.stop :]
        return chosen

    def improved(self, chosen: Tensor) -> Tensor:
        """The same with each index changed for as long as that lowers the error, all others as they are."""
        values = self._values(chosen, slice(None))
        for _ in range(SWEEPS):
            before = chosen.clone()
            slope = values @ self.square - self.linear
            for first in range(0, chosen.shape[1], BLOCK):
                block = slice(first, first + BLOCK)
                own, near, moved = self.square[block, block], slope[:, block], values[:, block].clone()
                for column in range(own.shape[0]):
                    at = slice(first + column, first + column + 1)
                    chosen[:, at] = self._nearest(values[:, at] - near[:, column, None] / own[column, column], at)
                    new = self._values(chosen[:, at], at)
                    near += (new - values[:, at]) * own[column, None]
                    values[:, at] = new
                moved = values[:, block] - moved
                slope[:, block.stop :] += moved @ self.square[block, block.stop :]
            if torch.equal(before, chosen):
                break
        return chosen

    def _nearest(self, values: Tensor, columns: slice) -> Tensor:
        found = self.levels.nearest(values / self.steps[:, columns])
        return torch.where(self.alive[:, columns], found, self.levels.zero)

    def _values(self, chosen: Tensor, columns: slice) -> Tensor:
        return self.levels.values[chosen] * self.steps[:, columns]
