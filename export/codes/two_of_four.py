"""2:4 sparsity: which two of each four weights survive is one of six, and three of those fit a byte (6³ = 216).

That is 2⅔ bits for four weights, where the entropy is log₂ 6 = 2.585 and a bit mask takes 4.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

PAIRS = np.array(list(combinations(range(4), 2)))
"""The places of the two, by their number."""
_GROUPS = 3


def fits(alive: NDArray[np.bool_]) -> bool:
    """Whether no group of four, shape (groups, 4), has more than two survivors."""
    count = alive.view(np.uint8)
    return bool((count[:, 0] + count[:, 1] + count[:, 2] + count[:, 3] <= 2).all())


def encode(alive: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The bytes, and the positions of the two per group that count as surviving (pruned ones where too few do)."""
    # the stable order of survivors first takes the lowest two places, pruned ones only where survivors lack
    chosen = np.sort(np.argsort(~alive, axis=1, kind="stable")[:, :2], axis=1)
    number = np.zeros((4, 4), np.uint8)
    number[tuple(PAIRS.T)] = np.arange(len(PAIRS))
    digits = number[tuple(chosen.T)]
    padded = np.concatenate([digits, np.zeros(-digits.size % _GROUPS, np.uint8)]).reshape(-1, _GROUPS)
    codes = (padded * np.array([1, 6, 36], np.uint8)).sum(1, dtype=np.uint8)
    return codes, (chosen + 4 * np.arange(len(alive))[:, None]).reshape(-1)


def decode(codes: NDArray[np.uint8], count: int) -> NDArray[np.intp]:
    """The positions of the first `count` survivors; raises ValueError where the bytes are not theirs."""
    if codes.size != -(-count // (2 * _GROUPS)) or (codes.size and codes.max() >= 6**_GROUPS):
        raise ValueError(f"{codes.size} bytes are not the places of {count} survivors in groups of four")
    digits = codes.reshape(-1, 1) // np.array([1, 6, 36]) % 6
    places = PAIRS[digits.reshape(-1)] + 4 * np.arange(digits.size)[:, None]
    return np.asarray(places.reshape(-1)[:count])
