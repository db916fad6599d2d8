"""What a checkpoint records of a run: its rounds, what was cut, what its last bits depend on, its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from dwindle.documents import Count, Range, Share, Size, parse

UPGRADE = "use the dwindle that wrote it, or upgrade"


@dataclass(frozen=True)
class Round:
    """One prune-and-retrain; round 0 is the dense network, trained or as it came."""

    index: Count
    density: Annotated[float, Range(0, 1)]
    """Surviving share of the prunable weights, in (0, 1]."""
    bytes: Size | None
    """Size of the file the budget's target would ship; None without a byte budget."""
    validation: float
    """The task's metric on the validation split, in points. The dense network is judged as it is, later rounds as they
    will ship, with weights rounded to the requested precision."""
    loss: float | None
    """Mean training loss over the round's last 50 steps; None where the network came trained and none were taken."""
    seconds: Annotated[float, Range(0)]
    macs: Count | None = None
    """Multiply-accumulates of one inference, masked weights included."""
    samples: Count | None = None
    """The number of samples of which `validation` is the percentage that is right; None where that isn't known, or the
    metric is another."""


@dataclass(frozen=True)
class Uncut:
    """Output channels that channel pruning could not remove: `channels` of the `of` that `layer` has, and why."""

    layer: str
    channels: Count
    of: Count
    reason: str


@dataclass(frozen=True)
class Cuts:
    """What channel pruning made of the architecture. Empty where nothing was cut."""

    structure: dict[str, Any] = field(default_factory=dict)
    """How the network differs from one built afresh: see `dwindle.models.structure.describe`."""
    uncut: tuple[Uncut, ...] = ()
    """What the last cut could not remove."""


@dataclass(frozen=True)
class Choice:
    """What `precision` mixed chose for a tensor."""

    precision: str
    """What it is stored in."""
    density: Share
    """The share of its weights that was to survive; 1 for what isn't pruned."""


@dataclass(frozen=True)
class _Choices:
    """choices.json without its seal."""

    tensors: dict[str, Choice]


def read_choices(value: Any, file: Path) -> dict[str, Choice]:
    """Makes choices of a document that is `{"tensors": {NAME: …}}`. Raises CheckpointError naming `file` and field."""
    found: _Choices = parse(_Choices, value, file, UPGRADE)
    return found.tensors


@dataclass(frozen=True)
class Numerics:
    """What the last bits of a result depend on, beside its options and the versions of the packages."""

    threads: Annotated[int, Range(1)]
    """How many threads PyTorch shares an operation between."""
    bf16: bool
    """Whether training in bfloat16 is faster here, and so is used (`dwindle.models.precision`)."""
    device: str
    """What networks are trained on: `cpu` or `cuda`."""
    processor: str
    """The name of the CPU, or of the GPU that is trained on."""
    kernels: str
    """The instruction set that PyTorch's CPU kernels use here, such as `AVX512`."""
    ranks: Annotated[int, Range(1)] = 1
    """How many processes train together."""


_Sizes = Count | tuple[Count, ...]


@dataclass(frozen=True)
class _Structure:
    """structure.json: see `dwindle.models.structure.describe`."""

    attributes: dict[str, dict[str, _Sizes]] = field(default_factory=dict)
    shapes: dict[str, tuple[Count, ...]] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()


def read_structure(value: Any, file: Path) -> dict[str, Any]:
    """Checks a description of what surgery left against the form that `models.structure` writes, and returns it.

    Raises CheckpointError naming the `file` and the field.
    """
    parse(_Structure, value, file, UPGRADE)
    return dict(value)


def flattened(origin: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """An origin's options by dotted names: `{"task": {"epochs": 3}}` as `{"task.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in origin.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat
