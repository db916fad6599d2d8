"""How far one array is from another, as parity and bench count it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Difference(NamedTuple):
    """The largest difference between two arrays of one shape."""

    absolute: float
    """Infinite where either array has a NaN, so that no tolerance allows it."""
    relative: float
    """`absolute` over the largest absolute value of the reference; `absolute` itself where all of that is zero. The
    share that differs of whole numbers, such as indices."""


def furthest(arrays: Sequence[NDArray[Any]], references: Sequence[NDArray[Any]]) -> float:
    """The largest relative difference between arrays and their references, each pair of one shape.

    Arrays are compared in the type of their reference.
    """
    pairs = zip(arrays, references, strict=True)
    return max(difference(one.astype(other.dtype), other).relative for one, other in pairs)


def difference(array: NDArray[Any], reference: NDArray[Any]) -> Difference:
    """Compares an array with a reference of the same shape, not empty.

    >>> difference(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    Difference(absolute=0.5, relative=0.25)
    """
    if reference.dtype.kind != "f":
        off = np.abs(array.astype(np.float64) - reference)
        return Difference(float(off.max()), float((off != 0).mean()))
    absolute, largest = float(np.abs(array - reference).max()), float(np.abs(reference).max())
    if math.isnan(absolute):
        absolute = math.inf
    return Difference(absolute, absolute / largest if 0 < largest < math.inf else absolute)
