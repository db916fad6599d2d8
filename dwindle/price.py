"""What layers cost at given widths: the contract of budgets in instructions and in milliseconds.

`compress` asks a Price how much every layer of a network costs, and where it comes from is `bench`'s business: see the
entry-point group `dwindle.prices`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dwindle import registry
from dwindle.documents import Range

if TYPE_CHECKING:
    import numpy as np

GROUP = "dwindle.prices"
Width = Annotated[int, Range(1, 2**20)]
"""A size or a number of channels in a document, such as no layer exceeds."""


@dataclass(frozen=True)
class Shape:
    """A convolution or a linear layer, and the size of its input: all that its price depends on."""

    inputs: Width
    """Channels, or features of a linear layer."""
    outputs: Width
    size: tuple[Width, ...]
    """Of the input, without batch and channels: empty for a linear layer that is given one vector."""
    kernel: tuple[Width, ...] = ()
    """Empty: a linear layer."""
    stride: tuple[Width, ...] = ()
    padding: tuple[Annotated[int, Range(0, 2**20)], ...] = ()
    dilation: tuple[Width, ...] = ()
    groups: Width = 1

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups > 1 and self.groups == self.inputs

    @property
    def spatial(self) -> tuple[int, ...]:
        """The size of the output, without batch and channels."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides) if self.kernel else self.size

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return prod(self.spatial) * prod(self.kernel) * self.inputs // self.groups * self.outputs

    @property
    def activations(self) -> int:
        """Numbers that it reads and writes."""
        return prod(self.size) * self.inputs + prod(self.spatial) * self.outputs

    def at(self, inputs: int, outputs: int) -> Shape:
        """The same layer with other widths; of a grouped one, the channels of a group stay."""
        groups = max(1, outputs * self.groups // self.outputs) if self.groups > 1 else 1
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)


class Price(ABC):
    """How much layers cost in one target's runtime: in instructions, or in milliseconds on a device."""

    unit: str
    """What it counts, in words: `ARM64 instructions`."""
    option: str
    """The option of `compress` that gives a budget in it: `cost`."""

    @abstractmethod
    def require(self, progress: Callable[[str], None]) -> None:
        """Makes ready what prices come from; raises RuntimeUnavailable, with what adds it, where that is missing."""

    @abstractmethod
    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        """The price of each layer by itself, without what a file with nothing in it costs.

        progress: called with a sentence about how far it is.
        """

    @abstractmethod
    def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
        """The price of a whole network that has these layers.

        file: writes it as the target's file, and returns that with a sample of its inputs.
        """

    @abstractmethod
    def words(self, amount: float) -> str:
        """An amount for people, with its unit."""


def load(name: str, target: str, precision: str, source: str | None = None) -> Price:
    """The registered price of that name (`cost`, `latency`) for a target's files at a precision.

    source: what it is measured on or read from, where it needs that. Raises UsageError for an unknown name and for what
    the price can't be had of.
    """
    kind: type[Price] = registry.resolve_class(GROUP, name, "price", Price)  # type: ignore[type-abstract]
    make: Callable[[str, str, str | None], Price] = kind
    return make(target, precision, source)
