"""Finding a network's tensors again among the constants of a converted file, by their values."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.fold import tensors

if TYPE_CHECKING:
    from torch import nn

Array = NDArray[Any]


class Source(NamedTuple):
    """The tensor of the network that a constant is."""

    name: str
    """The tensor's name in the network."""
    axes: tuple[int, ...]
    """The order in which the file has those of its dimensions that are larger than one."""


class Floats:
    """A network's float tensors. A converted network needs values of which no two are the same (`fold.distinct`)."""

    def __init__(self, network: nn.Module) -> None:
        self._floats = {name: one.numpy() for name, one in tensors(network).items() if one.is_floating_point()}
        self._alike: dict[tuple[int, float, float], list[str]] = {}
        for name, array in self._floats.items():
            if array.size:
                self._alike.setdefault(_key(array), []).append(name)
        self._numbers = any(array.size == 1 for array in self._floats.values())

    def source(self, constant: Array, *, flat: bool = False) -> Source | None:
        """The tensor that a constant is, in any order of its dimensions; None where it is none.

        constant: its dimensions of one left out. flat: whether it is the values alone, in one dimension.
        """
        for name in self._alike.get(_key(constant), []) if constant.size else []:
            array = self._floats[name].squeeze()
            for axes in itertools.permutations(range(array.ndim)):
                ordered = array.transpose(axes)
                if np.array_equal(ordered.reshape(-1) if flat else ordered, constant):
                    return Source(name, axes)
        return None

    def may_be_made_from(self, constant: Array) -> bool:
        """Whether a constant that is no tensor may follow from one, rather than be a number of the program's own."""
        return constant.size > 1 or self._numbers


def _key(array: Array) -> tuple[int, float, float]:
    return array.size, float(array.min()), float(array.max())
