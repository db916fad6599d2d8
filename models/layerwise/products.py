"""Layers as the matrix products that they are: which inputs each output is a weighted sum of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


class Product(Protocol):
    """A layer whose outputs, at each of its positions, are a matrix times some of its inputs.

    A position is one place that the matrix is applied at: a sample's pixel for a convolution, a token for a linear
    layer. There are `groups` matrices of `outputs` rows by `inputs` columns.
    """

    @property
    def inputs(self) -> int:
        """Columns of each group's matrix."""

    def positions(self, outputs: Tensor) -> int:
        """How many positions a batch of the layer's outputs has, those of all its samples."""

    def gather_inputs(self, inputs: Tensor, positions: Tensor) -> Tensor:
        """What the matrices are multiplied with at `positions`, flat int64 indices: (groups, positions, inputs)."""

    def gather_outputs(self, outputs: Tensor, positions: Tensor) -> Tensor:
        """The layer's outputs there: (groups, positions, outputs)."""

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape (the weight, its mask) as matrices: (groups, outputs, inputs)."""

    def weight(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""


@dataclass(frozen=True)
class LinearProduct:
    """A linear layer: inputs (…, inputs), outputs (…, outputs)."""

    layer: nn.Linear

    @property
    def inputs(self) -> int:
        return self.layer.in_features

    def positions(self, outputs: Tensor) -> int:
        return math.prod(outputs.shape[:-1])

    def gather_inputs(self, inputs: Tensor, positions: Tensor) -> Tensor:
        picked: Tensor = inputs.reshape(-1, inputs.shape[-1])[positions][None]
        return picked

    def gather_outputs(self, outputs: Tensor, positions: Tensor) -> Tensor:
        return self.gather_inputs(outputs, positions)

    def rows(self, weight: Tensor) -> Tensor:
        return weight[None]

    def weight(self, rows: Tensor) -> Tensor:
        return rows[0]


@dataclass(frozen=True)
class ConvProduct:
    """A convolution of one, two or three dimensions, with any stride, padding, dilation and number of groups.

    A subclass with a forward pass of its own and no `padding`, such as timm's Conv2dSame, is taken to pad as TensorFlow
    does, so that outputs are inputs over stride, rounded up. `mismatch` tells whether that holds.
    """

    layer: _ConvNd

    @property
    def inputs(self) -> int:
        return self.layer.weight[0].numel()

    def positions(self, outputs: Tensor) -> int:
        return _pixels(outputs)

    def gather_inputs(self, inputs: Tensor, positions: Tensor) -> Tensor:
        layer = self.layer
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padding = layer._reversed_padding_repeated_twice
        if not any(padding) and type(layer).forward not in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
            padding = _same(layer, tuple(inputs.shape[2:]))
        padded = functional.pad(inputs, padding, mode=mode)
        return _taps(padded, positions, layer.kernel_size, layer.stride, layer.dilation, layer.groups)

    def gather_outputs(self, outputs: Tensor, positions: Tensor) -> Tensor:
        return _channels(outputs, positions, self.layer.groups)

    def rows(self, weight: Tensor) -> Tensor:
        rows: Tensor = weight.flatten(1).unflatten(0, (self.layer.groups, -1))
        return rows

    def weight(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.layer.weight.shape)


@dataclass(frozen=True)
class TransposedProduct:
    """A transposed convolution: the convolution, at stride 1 and with its kernel mirrored, of inputs with `stride` - 1
    zeros between every two."""

    layer: _ConvTransposeNd

    @property
    def inputs(self) -> int:
        return self.layer.weight[:, 0].numel() // self.layer.groups

    def positions(self, outputs: Tensor) -> int:
        return _pixels(outputs)

    def gather_inputs(self, inputs: Tensor, positions: Tensor) -> Tensor:
        layer, ones = self.layer, (1,) * len(self.layer.kernel_size)
        shape = [(size - 1) * stride + 1 for size, stride in zip(inputs.shape[2:], layer.stride, strict=True)]
        spread = inputs.new_zeros(*inputs.shape[:2], *shape)
        every = tuple(slice(None, None, stride) for stride in layer.stride)
        spread[(slice(None), slice(None), *every)] = inputs
        edges: list[int] = []
        for dim in reversed(range(len(shape))):  # functional.pad begins with the last dimension
            edge = layer.dilation[dim] * (layer.kernel_size[dim] - 1) - int(layer.padding[dim])
            edges += [edge, edge + layer.output_padding[dim]]
        return _taps(functional.pad(spread, edges), positions, layer.kernel_size, ones, layer.dilation, layer.groups)

    def gather_outputs(self, outputs: Tensor, positions: Tensor) -> Tensor:
        return _channels(outputs, positions, self.layer.groups)

    def rows(self, weight: Tensor) -> Tensor:
        mirrored = weight.flip(tuple(range(2, weight.dim())))
        rows: Tensor = mirrored.unflatten(0, (self.layer.groups, -1)).transpose(1, 2).flatten(2)
        return rows

    def weight(self, rows: Tensor) -> Tensor:
        shape = self.layer.weight.shape
        split: Tensor = rows.unflatten(2, (shape[0] // self.layer.groups, *shape[2:]))
        return split.transpose(1, 2).flatten(0, 1).flip(tuple(range(2, len(shape))))


def product(layer: nn.Module) -> Product | None:
    """The layer as a matrix product; None for one that is none, such as an embedding, or one that computes its weight
    (weight norm, a parametrization)."""
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        return None
    if isinstance(layer, nn.Linear):
        return LinearProduct(layer)
    if isinstance(layer, _ConvTransposeNd):
        return TransposedProduct(layer)
    if isinstance(layer, _ConvNd):
        return ConvProduct(layer)
    return None


def mismatch(matrix: Product, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> float:
    """How far the matrices times what they see are from the layer's own outputs, over the largest of those; infinite
    where they don't even have as many positions. A few positions are compared."""
    positions = torch.linspace(0, matrix.positions(outputs) - 1, 16, device=outputs.device).long()
    try:
        seen, wanted = matrix.gather_inputs(inputs, positions), matrix.gather_outputs(outputs, positions)
    except (IndexError, RuntimeError):  # positions, or a padding, that such inputs don't have
        return math.inf
    found = seen @ matrix.rows(layer.get_parameter("weight")).transpose(1, 2)
    if (bias := layer._parameters.get("bias")) is not None:
        found = found + bias.unflatten(0, (len(found), 1, -1))
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny))


def _same(layer: _ConvNd, shape: tuple[int, ...]) -> list[int]:
    """TensorFlow's padding of inputs of that shape, the last dimension first."""
    edges: list[int] = []
    for size, kernel, stride, spread in reversed(
        list(zip(shape, layer.kernel_size, layer.stride, layer.dilation, strict=True))
    ):
        missing = max(0, (math.ceil(size / stride) - 1) * stride + spread * (kernel - 1) + 1 - size)
        edges += [missing // 2, missing - missing // 2]
    return edges


def _pixels(tensor: Tensor) -> int:
    """Samples times spatial positions of (N, channels, …)."""
    return len(tensor) * math.prod(tensor.shape[2:])


def _places(positions: Tensor, samples: int, shape: tuple[int, ...]) -> tuple[Tensor | slice, ...]:
    """Flat positions as an index into (N, channels, …), all channels."""
    sample, *pixel = torch.unravel_index(positions, (samples, *shape))
    return (sample, slice(None), *pixel)


def _channels(outputs: Tensor, positions: Tensor, groups: int) -> Tensor:
    picked = outputs[_places(positions, len(outputs), tuple(outputs.shape[2:]))]
    split: Tensor = picked.unflatten(1, (groups, -1)).transpose(0, 1)
    return split


def _taps(
    padded: Tensor,
    positions: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """What a kernel sees of (N, channels, …) at each position: (groups, positions, channels / groups * kernel)."""
    windows = padded  # a view: (N, channels, positions…, kernel…)
    for dim, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        windows = windows.unfold(dim, (size - 1) * spread + 1, step)[..., ::spread]
    shape = tuple(windows.shape[2 : 2 + len(kernel)])
    picked = windows[_places(positions, len(windows), shape)]
    split: Tensor = picked.unflatten(1, (groups, -1)).flatten(2).transpose(0, 1)
    return split
