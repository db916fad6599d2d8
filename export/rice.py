"""Golomb-Rice coding of which weights survive: the runs of pruned ones between them, each in a few bits.

A run of g pruned weights before a survivor is ⌊g / 2ᵏ⌋ zeros and a one in the *unary* part, and g mod 2ᵏ in
k bits of the *low* part; those after the last survivor take nothing. With the k of its density the code is
within 2.5% of the mask's entropy (Golomb 1966; Rice 1979), and k = 0 is the bit mask itself.

Bits fill bytes from the lowest. The low part is a plane per bit: the lowest bits of all survivors, then the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARAMETERS = range(13)
"""The values of k to choose from: up to one survivor in some 5,000."""
Bytes = NDArray[np.uint8]
Positions = NDArray[np.intp]


def bits(positions: Positions) -> NDArray[np.int64]:
    """What `encode` would take, in bits, with each of PARAMETERS. positions: of the survivors, ascending."""
    runs = np.diff(positions, prepend=-1) - 1
    return np.array([runs.size * (k + 1) + int((runs >> k).sum()) for k in PARAMETERS])


def encode(positions: Positions, k: int) -> tuple[Bytes, Bytes]:
    """The unary and the low part."""
    runs = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((runs >> k) + 1) - 1
    unary = np.zeros(ends[-1] + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    planes = (runs >> np.arange(k)[:, None]) & 1
    return np.packbits(unary, bitorder="little"), np.packbits(planes.astype(np.uint8), bitorder="little")


def decode(unary: Bytes, low: Bytes, k: int, count: int) -> Positions:
    """The positions of `count` survivors; raises ValueError where the parts do not belong together."""
    ends = np.flatnonzero(np.unpackbits(unary.reshape(-1), bitorder="little"))
    if ends.size != count:
        raise ValueError(f"the mask keeps {ends.size} weights, there are {count}")
    if low.size != -(-k * count // 8):
        raise ValueError(f"{low.size} bytes are not the {k} low bits of {count} runs")
    planes = np.unpackbits(low.reshape(-1), bitorder="little", count=k * count).reshape(k, count)
    rest = (planes.astype(np.intp) << np.arange(k)[:, None]).sum(0)
    return ((ends - np.arange(count)) << k) + np.cumsum(rest + 1) - 1
