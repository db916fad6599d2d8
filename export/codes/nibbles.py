"""Codes of four bits, two to a byte: the first half of them in the low bits of all bytes, the second in the high.

In that order a runtime unpacks them by two operations on whole strings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """codes: from 0 to 15, shape (n,). Returns ⌈n/2⌉ bytes."""
    low, high = np.pad(codes.astype(np.uint8), (0, codes.size % 2)).reshape(2, -1)
    return np.asarray(low | high << 4)


def decode(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The `count` codes; raises ValueError where the bytes are not theirs."""
    if packed.size != -(-count // 2):
        raise ValueError(f"{packed.size} bytes are not {count} codes of four bits")
    if count % 2 and packed[-1] >> 4:
        raise ValueError("there are bits set beyond the last code")
    return np.concatenate([packed & 15, packed >> 4])[:count].astype(np.int8)
