"""LiteRT's sparse tensors: all dimensions are dense but the last in order of traversal, which lists its survivors.

Format: `SparsityParameters` of LiteRT's schema.fbs, with its example. Rows may run along the outputs or the inputs of a
layer, whichever makes the shorter lists: XNNPACK makes its own form of either when it loads the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sparse:
    """A sparse tensor: its surviving weights, and where they are."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    """Its dimensions in order of traversal. The last one is sparse."""
    values: NDArray[Any]
    segments: NDArray[Any]
    """For each row the index of its first survivor, and after the last row the number of survivors."""
    indices: NDArray[Any]
    """Each survivor's index in its row."""

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.segments.nbytes + self.indices.nbytes


def encode(array: NDArray[Any]) -> Sparse:
    """The shorter of a tensor's two forms; it has at least two dimensions."""
    ahead = tuple(range(array.ndim))
    return min((_encode(array, order) for order in (ahead, ahead[::-1])), key=lambda form: form.nbytes)


def decode(form: Sparse) -> NDArray[Any]:
    """The tensor; raises ValueError where the lists do not fit its shape."""
    walked = [form.shape[axis] for axis in form.order]
    rows, segments, indices = math.prod(walked[:-1]), form.segments.astype(np.int64), form.indices.astype(np.int64)
    lengths = np.diff(segments)
    if len(lengths) != rows or segments[0] or segments[-1] != len(indices) or len(indices) != len(form.values):
        raise ValueError(f"{len(form.values)} survivors do not fit {rows} rows of {walked[-1]}")
    if (lengths < 0).any() or (indices >= walked[-1]).any() or (indices < 0).any():
        raise ValueError(f"survivors lie outside of rows of {walked[-1]}")
    dense = np.zeros((rows, walked[-1]), form.values.dtype)
    dense[np.repeat(np.arange(rows), lengths), indices] = form.values
    return dense.reshape(walked).transpose(np.argsort(form.order))


def _encode(array: NDArray[Any], order: tuple[int, ...]) -> Sparse:
    rows = np.ascontiguousarray(array.transpose(order)).reshape(-1, array.shape[order[-1]])
    row, column = rows.nonzero()
    if not len(row):
        row, column = np.zeros((2, 1), np.int64)  # one zero is listed: without any bytes a tensor is no constant
    segments = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))])
    return Sparse(array.shape, order, rows[row, column], _shortest(segments), _shortest(column))


def _shortest(numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers in the smallest type that the format has for them."""
    largest = int(numbers.max(initial=0))
    return numbers.astype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32)
