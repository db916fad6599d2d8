"""The bit mask: which weights survive, a bit each, beside the survivors in their order.

n weights of which k survive take ⌈n/8⌉ bytes and k values. The first weight, in row-major order, is the
lowest bit of the first byte: the order of `checkpoint.pack_masks` and of Core ML's sparse tensors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(weights: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """The mask's bytes and the survivors (of `weights`' dtype) of an array of any shape.

    A negative zero is pruned like any zero: it decodes to a positive one.
    """
    flat = weights.reshape(-1)
    alive = flat != 0
    return np.packbits(alive, bitorder="little"), flat[alive]


def decode(mask: NDArray[np.uint8], survivors: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The array of that shape; raises ValueError where mask, survivors and shape do not belong together."""
    count = math.prod(shape)
    if mask.size != -(-count // 8):
        raise ValueError(f"a mask of {mask.size} bytes is not one for {count} weights")
    bits = np.unpackbits(mask.reshape(-1), bitorder="little")
    if bits[count:].any():
        raise ValueError("the mask has bits set beyond its last weight")
    alive = bits[:count].astype(bool)
    if survivors.size != np.count_nonzero(alive):
        raise ValueError(f"the mask keeps {np.count_nonzero(alive)} weights, there are {survivors.size}")
    weights = np.zeros(count, survivors.dtype)
    weights[alive] = survivors.reshape(-1)
    return weights.reshape(shape)
