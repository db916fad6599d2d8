"""Weights in fewer bits, in the same way for every target: what a file stores, and the network that it then computes.

int8 is symmetric, with a scale per row of the first dimension (a convolution's or linear layer's output
channel), so that a pruned weight stays exactly zero. Scales lie on a grid of 256: a byte each in a file.

At four bits what is small and costs most keeps more of them: the first layer, and rows that are short, such as a
depthwise convolution's, are int8. int4 has a scale for every 64 or so surviving weights: blocks of a row's input
channels. palette4 has sixteen values per tensor (`palette`), times a scale per row where that is worth its byte;
palette3, palette2 and palette1 have eight, four and two, and zeros beside them. At mixed each tensor has one of these
precisions, as it was chosen, or is fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError
from dwindle.export.codes.palette import palettize
from dwindle.export.fold import tensors
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["fp32", "fp16", "int8", "int4", "palette4", "palette3", "palette2", "palette1", "mixed", "w8a8"]
FOUR_BITS = ("int4", "palette4")
PALETTES = ("palette4", "palette3", "palette2", "palette1")
FEW_BITS = ("int4", *PALETTES)
CODED = ("int8", *FEW_BITS)
"""The precisions that store codes."""
MIXED = "mixed"
"""The precision of a file whose tensors have precisions of their own."""
LARGEST = 127
"""The largest int8 code. −128 is never used, as the range is symmetric."""
LARGEST_INT4 = 7
"""The largest int4 code. −8 is never used, as the range is symmetric."""
SCALES = np.geomspace(2.0**-14, 65504 / LARGEST, 256).astype(np.float16)
"""Every scale that a file can have: from fp16's smallest normal number up to where int8 covers the whole of fp16.

Steps of 6.5% cost a quarter of a decibel on average. Fp16 holds each exactly, and fp32 each product with a code.
"""
_ROW = 8
"""How many weights a row must have for a scale of its own to be worth a byte."""
_LONG_ROW = 64
"""How many weights a row must have to be stored in four bits."""
_BLOCK = 64
"""How many surviving weights share a scale of int4, at least, where the row has that many. With fewer of them, and
normally distributed weights, a decibel takes more bits of scales than of weights."""
_DECIBELS = 6.02
"""The signal-to-noise ratio that one more bit per weight is worth: 20 log₁₀ 2."""


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it."""

    values: NDArray[Any]
    """The values themselves; or integer codes, of which 0 is zero: int8, int4 from −7 up, or indices into `palette`."""
    scale: NDArray[np.uint8] | None = None
    """For codes: the index into SCALES of each scale, shape (rows, blocks of input channels, 1, …)."""
    palette: NDArray[np.float16] | None = None
    kind: str = ""
    """`int4` or one of PALETTES; empty for anything else, which the dtype of `values` tells."""
    axis: int | None = None
    """The dimension of `values` with a scale for each element, where a file reads codes and scales apart, to compute
    with the codes; `scale` is then of shape (elements,). None: codes are multiplied by their scales first."""

    @property
    def bits(self) -> int:
        """How many bits a value takes."""
        return int(self.kind[-1]) if self.kind else 8 * self.values.itemsize

    @property
    def precision(self) -> str:
        """What `store` was asked for, as far as it made a difference."""
        return self.kind or {"int8": "int8", "float16": "fp16"}.get(self.values.dtype.name, "fp32")

    @property
    def steps(self) -> NDArray[np.float32] | None:
        """What codes, or their palette's values, are multiplied by; it broadcasts to `values`. None: by nothing."""
        if self.scale is None:
            return None
        steps = SCALES[self.scale].astype(np.float32)
        if self.axis is None:
            return spread(steps, self.values.shape)
        return steps.reshape([-1 if axis == self.axis else 1 for axis in range(self.values.ndim)])

    def decoded(self) -> NDArray[Any]:
        """The tensor that a runtime computes with: in fp32, or unchanged where it has no floats."""
        values = self.values if self.palette is None else self.palette[self.values]
        if (steps := self.steps) is not None:
            return values.astype(np.float32) * steps
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def like(self, array: NDArray[np.float32]) -> Stored:
        """Another tensor of this one's shape, stored in the same way."""
        return store("", array, self.precision) if self.axis is None else int8_along(array, self.axis)


def stored(network: nn.Module, precision: str | Mapping[str, str]) -> dict[str, Stored]:
    """Every parameter and buffer of a network (`fold.deployable`'s) at a precision, by name.

    precision: of them all; or of each by name, those without one in fp16.
    At int8 and below, tensors without rows long enough for a scale (biases, norms) are fp16. Raises UsageError for a
    weight beyond the range of the precision.
    """
    every = tensors(network)
    if isinstance(precision, str):
        first = next((name for name, tensor in every.items() if tensor.is_floating_point() and tensor.dim() > 1), None)
        kind = {name: "int8" if name == first and precision in FEW_BITS else precision for name in every}
    else:
        kind = {name: precision.get(name, "fp16") for name in every}
    return {name: store(name, tensor.numpy(), kind[name]) for name, tensor in every.items()}


def store(name: str, array: NDArray[Any], precision: str) -> Stored:
    """One tensor at a precision. name: the tensor's, for the message. Raises as `stored` does."""
    if array.dtype != np.float32 or not array.ndim or not array.size or precision == "fp32":
        return Stored(array)
    infinite = np.isinf(array)
    if not (infinite | (np.abs(array) <= np.finfo(np.float16).max)).all():
        raise UsageError(
            f"{name} has values beyond 65504, the largest that {precision} can store: scale it down",
            code="out-of-range",
            name=name,
        )
    if infinite.any():  # a causal mask, say: fp16 has infinities, and no scale spans to one
        precision = "fp16"
    if precision in FEW_BITS and array.ndim > 1 and array[0].size >= _LONG_ROW:
        if precision in PALETTES:
            return _palette(array, precision)
        if np.abs(array).max() <= LARGEST_INT4 * SCALES[-1]:
            return _int4(array)
    if precision in CODED and array.ndim > 1 and array[0].size >= _ROW:
        return _int8(array)
    return Stored(array.astype(np.float16) + np.float16(0))  # + 0: no negative zeros


def int8_along(array: NDArray[np.float32], axis: int) -> Stored:
    """A weight in int8 with a scale for each element of a dimension, codes and scales apart, as w8a8 has them."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    scale = _scales(np.abs(rows).max(1) / LARGEST)
    steps = SCALES.astype(np.float32)[scale].reshape([-1 if one == axis else 1 for one in range(array.ndim)])
    return Stored(np.rint(array / steps).clip(-LARGEST, LARGEST).astype(np.int8), scale, axis=axis)


def quantized(network: nn.Module, weights: Mapping[str, Stored]) -> nn.Module:
    """A copy of the network in fp32, with the tensors that a file stores in place of its own.

    weights: what `stored` returns for the same network. Raises as `with_tensors` does.
    """
    import torch

    decoded = {name: torch.from_numpy(np.array(weights[name].decoded())) for name in tensors(network)}
    return with_tensors(network, decoded)


def with_tensors(network: nn.Module, rounded: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network, with these tensors in place of its own of the same names.

    Raises AssertionError should a pruned weight have come back to life.
    """
    import torch

    made = copied(network)
    with torch.no_grad():
        for name, tensor in tensors(made).items():
            if name in rounded:
                if tensor.dim() > 1:  # a bias may take up what its layer's rounding changed
                    assert not ((tensor == 0) & (rounded[name] != 0)).any(), f"{name} was pruned, and is no longer"
                tensor.copy_(rounded[name])
    return made


def spread(scale: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Scales of blocks, repeated to one for each input channel: they broadcast to a tensor of that shape."""
    return np.repeat(scale, shape[1] // scale.shape[1], 1)


def _int8(array: NDArray[np.float32]) -> Stored:
    return _scaled(array, 1, LARGEST)


def _int4(array: NDArray[np.float32]) -> Stored:
    most = np.count_nonzero(array) // (_BLOCK * len(array))
    blocks = max((count for count in range(1, most + 1) if array.shape[1] % count == 0), default=1)
    return replace(_scaled(array, blocks, LARGEST_INT4), kind="int4")


def _scaled(array: NDArray[np.float32], blocks: int, largest: int) -> Stored:
    """Codes up to `largest`, each block of a row's input channels over the smallest scale that holds it."""
    rows = array.reshape(len(array) * blocks, -1)
    scale = _scales(np.abs(rows).max(1) / largest)
    codes = np.rint(rows / SCALES.astype(np.float32)[scale, None]).clip(-largest, largest).astype(np.int8)
    return Stored(codes.reshape(array.shape), scale.reshape(len(array), blocks, *[1] * (array.ndim - 2)))


def worth_scales(rows: int, alive: int) -> bool:
    """Whether a byte for each row is less than a bit for each surviving weight, so that scales may be worth it."""
    return 8 * rows <= alive


def scales_gain(rows: int, alive: int) -> float:
    """How many times as large the noise has to be without scales for each row, for these to be worth their bytes."""
    return float(10 ** (_DECIBELS * 8 * rows / alive / 10))


def fp16_holds(values: NDArray[np.float32], scales: NDArray[np.float32]) -> bool:
    """Whether fp16 holds each product of a palette's values, none of them zero, and scales, in full precision."""
    sizes = np.abs(values)
    return bool(sizes.size and sizes.min() * scales.min() >= SCALES[0] and sizes.max() * scales.max() < 2**15)


def _palette(array: NDArray[np.float32], kind: str) -> Stored:
    """With scales where they lower the noise by more than the bits that they take would, spent on the weights."""
    bits = int(kind[-1])
    codes, palette = palettize(array, bits)
    plain = Stored(codes, None, palette, kind)
    rows = array.reshape(len(array), -1)
    alive = np.count_nonzero(rows, 1)
    if not worth_scales(len(rows), int(alive.sum())):
        return plain
    size = np.sqrt(np.square(rows, dtype=np.float64).sum(1) / np.maximum(alive, 1))
    scale = _scales(np.where(alive, size, size.max())).reshape(-1, *[1] * (array.ndim - 1))
    codes, palette = palettize(array / SCALES.astype(np.float32)[scale], bits)
    if not fp16_holds(palette[palette != 0].astype(np.float32), SCALES[scale].astype(np.float32)):
        return plain
    scaled = Stored(codes, scale, palette, kind)
    return scaled if _noise(array, plain) > scales_gain(len(rows), alive.sum()) * _noise(array, scaled) else plain


def _noise(array: NDArray[np.float32], tensor: Stored) -> float:
    return float(np.square(array - tensor.decoded(), dtype=np.float64).sum())


def _scales(needed: NDArray[Any]) -> NDArray[np.uint8]:
    """The indices into SCALES of the smallest scales that are at least as large as needed, or else of the largest."""
    found = np.searchsorted(SCALES.astype(np.float32), needed)
    return np.minimum(found, SCALES.size - 1).astype(np.uint8)
