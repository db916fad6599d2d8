"""The multiple-choice knapsack: one option for each item, so that all together fit and lose the least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STEPS = 1 << 14
"""Into how many equal parts the room is divided. Bytes are rounded up to whole parts, so that what is chosen fits."""


class Option(NamedTuple):
    """What one item may become."""

    bytes: float
    loss: float


def choose(options: Mapping[str, Sequence[Option]], room: float) -> dict[str, int]:
    """The index of the option that each item takes, so that bytes add up to at most `room` and losses to the least.

    It is exact for whole bytes and a room of up to STEPS; beyond, bytes count in STEPS equal parts of the room, rounded
    up. Where not even the smallest options fit, each item takes its smallest.

        >>> choose({"a": [Option(8, 0.0), Option(2, 1.0)], "b": [Option(8, 0.0), Option(2, 3.0)]}, 10)
        {'a': 1, 'b': 0}

    Dynamic programming over the parts of the room, an item after the other.
    """
    part = max(1.0, room / STEPS)
    parts = int(room // part)
    least = np.zeros(parts + 1) if room >= 0 else np.zeros(1)
    taken: list[NDArray[np.int64]] = []
    for own in options.values():
        reached = np.full_like(least, np.inf)
        choice = np.zeros(len(least), np.int64)
        for index, option in enumerate(own):
            size = int(np.ceil(option.bytes / part - 1e-9))
            if size >= len(least):
                continue
            found = np.full_like(least, np.inf)
            found[size:] = least[: len(least) - size] + option.loss
            better = found < reached
            reached[better], choice[better] = found[better], index
        least = reached
        taken.append(choice)
    if room < 0 or not np.isfinite(least[-1]):
        return {name: min(range(len(own)), key=lambda index: own[index].bytes) for name, own in options.items()}
    left, indices = len(least) - 1, []
    for own, choice in zip(reversed(list(options.values())), reversed(taken), strict=True):
        indices.append(int(choice[left]))
        left -= int(np.ceil(own[indices[-1]].bytes / part - 1e-9))
    return dict(zip(options, reversed(indices), strict=True))
