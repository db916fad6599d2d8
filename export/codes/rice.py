"""Golomb-Rice coding of which weights survive: the runs of pruned ones between them, each in a few bits.

A run of g pruned weights before a survivor is ⌊g / 2ᵏ⌋ zeros and a one in the *unary* part, and g mod 2ᵏ in
k bits of the *low* part; those after the last survivor take nothing. With the k of its density the code is
within 2.5% of the mask's entropy (Golomb 1966; Rice 1979), and k = 0 is the bit mask itself.

The low part is a plane per bit: the lowest bits of all survivors, then the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARAMETERS = range(9)
"""The values of k to choose from: up to one survivor in some 500, and the low part of a run fits a byte."""
Bytes = NDArray[np.uint8]
Positions = NDArray[np.intp]


def bits(positions: Positions) -> NDArray[np.int64]:
    """What `encode` would take, in bits, with each of PARAMETERS. positions: of the survivors, ascending."""
    runs = _runs(positions)
    return np.array([runs.size * (k + 1) + int((runs >> k).sum()) for k in PARAMETERS])


def encode(positions: Positions, k: int) -> tuple[Bytes, Bytes]:
    """The unary and the low part."""
    runs = _runs(positions)
    ends = np.cumsum((runs >> k) + 1) - 1
    unary = np.zeros(ends[-1] + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    planes = (runs >> np.arange(k)[:, None]) & 1
    return pack(unary), pack(planes.astype(np.uint8).reshape(-1))


def _runs(positions: Positions) -> NDArray[np.int32]:
    """Of pruned weights, before each survivor. A tensor has fewer than 2³¹ of them."""
    narrow = positions.astype(np.int32)
    return np.diff(narrow, prepend=np.int32(-1)) - np.int32(1)


def decode(unary: Bytes, low: Bytes, k: int, count: int) -> Positions:
    """The positions of `count` survivors; raises ValueError where the parts do not belong together."""
    ends = np.flatnonzero(unpack(unary))
    if ends.size != count:
        raise ValueError(f"the mask keeps {ends.size} weights, there are {count}")
    if low.size != -(-k * count // 8):
        raise ValueError(f"{low.size} bytes are not the {k} low bits of {count} runs")
    planes = unpack(low)[: k * count].reshape(k, count)
    rest = (planes.astype(np.intp) << np.arange(k)[:, None]).sum(0)
    return np.asarray(((ends - np.arange(count)) << k) + np.cumsum(rest + 1) - 1)


def pack(flags: Bytes) -> Bytes:
    """Eight bits to a byte: the first eighth of them are the lowest bits of all bytes, in order, and so on.

    In that order a runtime unpacks them by whole rows, several times faster than byte by byte.
    """
    return np.packbits(np.pad(flags, (0, -flags.size % 8)).reshape(8, -1), axis=0, bitorder="little").reshape(-1)


def unpack(packed: Bytes) -> Bytes:
    """Inverse of `pack`, with up to seven zeros at the end."""
    return np.unpackbits(packed.reshape(1, -1), axis=0, bitorder="little").reshape(-1)
