"""What a network takes and gives, by name: recorded in the checkpoint and in every manifest, and found in the files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from dwindle.documents import Count, Range
from dwindle.errors import UsageError

Step = Count | str
"""A position in a tuple or list, or a key of a dict or the name of a dataclass's field."""


@dataclass(frozen=True)
class Varying:
    """A dimension of an input whose size may differ from call to call."""

    dim: Count
    least: Annotated[int, Range(1)]
    most: Annotated[int, Range(1)]
    """Both inclusive."""
    step: Annotated[int, Range(1)] = 1
    """Between two sizes, counted from `least`."""

    @property
    def middle(self) -> int:
        """The size in the middle of the range."""
        return self.least + (self.most - self.least) // self.step // 2 * self.step


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

    @property
    def fixed(self) -> bool:
        """Whether every dimension of every input has one size."""
        return not any(one.varies for one in self.inputs)

    def __str__(self) -> str:
        """Inputs and outputs with their types and shapes, such as `image float32 (1, 3, 96..256, 64) → …`."""
        sides = (", ".join(map(_described, side)) for side in (self.inputs, self.outputs))
        return " → ".join(sides)


NONE = "none"
"""The text that lets no dimension vary."""
BATCH = "batch"
"""The text that stands for dimension 0 of every input."""
BATCHES = (1, 16)
"""The sizes of a batch where none are given."""
_TEXT = re.compile(
    rf"(?:(?P<batch>{BATCH})|(?P<name>\w+):(?P<dim>\d+))(?P<range>=(?P<least>\d+)\.\.(?P<most>\d+)(?:/(?P<step>\d+))?)?"
)


def varying(signature: Signature, texts: Iterable[str]) -> Signature:
    """The signature with the dimensions that vary, as the option `dynamic` names them.

    texts: such as `batch`, `batch=1..8`, `input_ids:1=1..128`, `image:2=96..256/32`, where sizes are 32 apart; `none`
    for a signature in which none varies. Raises UsageError for what is none of these, for an input or dimension that
    isn't there or stands there twice, and for a range that doesn't hold the example's size.

        >>> signature = Signature((Input("x", (1, 3, 32, 32), "float32"),), ())
        >>> varying(signature, ["x:2=16..64/16"]).inputs[0].varies
        (Varying(dim=2, least=16, most=64, step=16),)
    """
    found: dict[tuple[str, int], Varying] = {}
    for text in texts:
        if text == NONE:
            continue
        for name, one in _read(text, signature):
            if (name, one.dim) in found:
                raise _wrong(text, f"dimension {one.dim} of {name} stands there twice: give its sizes once")
            found[name, one.dim] = one
    inputs = (
        replace(one, varies=tuple(v for (name, _), v in sorted(found.items()) if name == one.name))
        for one in signature.inputs
    )
    return replace(signature, inputs=tuple(inputs))


def _read(text: str, signature: Signature) -> list[tuple[str, Varying]]:
    """The inputs that a text names, each with its dimension."""
    parts = _TEXT.fullmatch(text)
    if parts is None or (parts["name"] and not parts["range"]):
        raise _wrong(text, "give batch, batch=1..8, or INPUT:DIMENSION=LEAST..MOST such as tokens:1=1..128")
    inputs = {one.name: one for one in signature.inputs}
    if parts["name"] and parts["name"] not in inputs:
        raise _wrong(text, f"the model has no input {parts['name']}: it has {', '.join(inputs)}")
    names, dim = (list(inputs), 0) if parts["batch"] else ([parts["name"]], int(parts["dim"]))
    least, most = (int(parts["least"]), int(parts["most"])) if parts["range"] else BATCHES
    step = int(parts["step"] or 1)
    if not (0 < least < most and 0 < step <= most - least and (most - least) % step == 0):
        raise _wrong(text, "the sizes go from a least one, 1 or more, to a larger one, by whole steps")
    for name in names:
        shape = inputs[name].shape
        if dim >= len(shape):
            raise _wrong(text, f"{name} has {len(shape)} dimensions, counted from 0")
        if shape[dim] not in range(least, most + 1, step):
            raise _wrong(text, f"the example input {name} has size {shape[dim]} there, which must be one of the sizes")
    return [(name, Varying(dim, least, most, step)) for name in names]


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"`dynamic` {text!r} can't be: {why}", code="bad-dynamic", option="dynamic", name=text)


def _described(one: Input | Output) -> str:
    varies = {each.dim: each for each in one.varies} if isinstance(one, Input) else {}
    sizes = [_sizes(varies[dim]) if dim in varies else str(size) for dim, size in enumerate(one.shape)]
    state = f", the last call's {one.state}" if isinstance(one, Input) and one.state else ""
    return f"{one.name} {one.dtype} ({', '.join(sizes)}{state})"


def _sizes(one: Varying) -> str:
    return f"{one.least}..{one.most}" + (f"/{one.step}" if one.step > 1 else "")
