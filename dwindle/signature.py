"""What a network takes and gives, by name: recorded in the checkpoint and in every manifest, and found in the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from dwindle.documents import Count, Range

Step = Count | str
"""A position in a tuple or list, or a key of a dict or the name of a dataclass's field."""


@dataclass(frozen=True)
class Varying:
    """A dimension of an input whose size may differ from call to call."""

    dim: Count
    least: Annotated[int, Range(1)]
    most: Annotated[int, Range(1)]
    """Both inclusive."""


@dataclass(frozen=True)
class Input:
    """A tensor that the network takes."""

    name: str
    """The name of the parameter of its `forward`."""
    shape: tuple[Count, ...]
    """One sample's, as a batch of one."""
    dtype: str
    """PyTorch's name, such as `float32` or `int64`."""
    state: str | None = None
    """The output whose value this input has at the next call; None where the caller gives its own."""
    varies: tuple[Varying, ...] = ()


@dataclass(frozen=True)
class Output:
    """A tensor that the network gives."""

    name: str
    path: tuple[Step, ...]
    """Where it is in what `forward` returns: `("logits",)`, `(0, "boxes")`; empty for a tensor alone."""
    shape: tuple[Count, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a network, in the order in which files have them.

    >>> Signature((Input("x", (1, 3, 32, 32), "float32"),), (Output("output", (), (1, 10), "float32"),)).plain
    True
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    keywords: bool = False
    """Whether `forward` is called with its inputs by name."""

    @property
    def plain(self) -> bool:
        """Whether the network takes its inputs one after the other and gives one tensor."""
        return not self.keywords and [output.path for output in self.outputs] == [()]
