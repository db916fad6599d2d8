"""What layers cost at given widths: the contract of budgets in instructions and in milliseconds.

`compress` asks a Price how much every layer of a network costs, and where it comes from is `bench`'s business: see the
entry-point group `dwindle.prices`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dwindle import registry
from dwindle.documents import Count, Reads

if TYPE_CHECKING:
    import numpy as np

GROUP = "dwindle.prices"


@dataclass(frozen=True)
class Shape:
    """A convolution or a linear layer, and the size of its input: all that its price depends on."""

    inputs: int
    """Channels, or features of a linear layer."""
    outputs: int
    size: tuple[int, ...]
    """Of the input, without batch and channels: empty for a linear layer that is given one vector."""
    kernel: tuple[int, ...] = ()
    """Empty: a linear layer."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Reads what `str` of a shape gives; raises ValueError for anything else, and for a layer that can't be.

        >>> Shape.parse("64>128 14x14 k3x3 s2x2 p1x1").spatial
        (7, 7)
        """
        if not (found := _TEXT.fullmatch(text)):
            raise ValueError("the shape of a layer, such as 3>16 32x32 k3x3")
        inputs, outputs, size, kernel, stride, padding, dilation, groups = found.groups()
        sides = len(_sizes(kernel))
        shape = cls(
            int(inputs),
            int(outputs),
            _sizes(size),
            _sizes(kernel),
            _sizes(stride) or (1,) * sides,
            _sizes(padding) or (0,) * sides,
            _sizes(dilation) or (1,) * sides,
            int(groups or 1),
        )
        positive = (shape.inputs, shape.outputs, shape.groups, *shape.size, *shape.kernel, *shape.stride)
        each = (shape.stride, shape.padding, shape.dilation, *([shape.size] if sides else []))
        fits = all(len(one) == sides for one in each) and min(positive + shape.dilation) > 0
        if not fits or shape.macs < 1 or min(shape.spatial, default=1) < 1:
            raise ValueError("that of a layer that can be")
        return shape

    def __str__(self) -> str:
        """The shape as documents have it: `3>16 32x32 k3x3 s2x2 p1x1`, where strides of 1 and the like are left out."""
        usual = {"s": 1, "p": 0, "d": 1}
        sides = {"": self.size, "k": self.kernel, "s": self.stride, "p": self.padding, "d": self.dilation}
        told = [name + "x".join(map(str, each)) for name, each in sides.items() if {*each} - {usual.get(name)}]
        grouped = [f"g{self.groups}"] if self.groups > 1 else []
        return " ".join([f"{self.inputs}>{self.outputs}", *told, *grouped])

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


_NUMBER = "[0-9]{1,7}"
_SIDES = f"({_NUMBER}(?:x{_NUMBER}){{0,2}})"
_OPTIONAL = "".join(f"(?: {name}{_SIDES})?" for name in ("", "k", "s", "p", "d"))
_TEXT = re.compile(f"({_NUMBER})>({_NUMBER}){_OPTIONAL}(?: g({_NUMBER}))?")


def _sizes(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split("x"))) if text else ()


Layers = dict[Annotated[str, Reads(Shape.parse)], Count]
"""The layers of a network in a document: how many there are of each shape. Their order doesn't matter to a price."""


def tally(shapes: Iterable[Shape]) -> Layers:
    """Layers as a document has them."""
    return dict(Counter(map(str, shapes)))


def shapes_of(layers: Layers) -> Counter[Shape]:
    """The layers that a document has."""
    return Counter({Shape.parse(text): times for text, times in layers.items()})


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

    def note(self) -> str | None:
        """Where prices come from, in a sentence that is shown with them; None where `words` says all."""
        return None


def load(name: str, target: str, precision: str, source: str | None = None) -> Price:
    """The registered price of that name (`cost`, `latency`) for a target's files at a precision.

    source: what it is measured on or read from, where it needs that. Raises UsageError for an unknown name and for what
    the price can't be had of.
    """
    kind: type[Price] = registry.resolve_class(GROUP, name, "price", Price)  # type: ignore[type-abstract]
    make: Callable[[str, str, str | None], Price] = kind
    return make(target, precision, source)
