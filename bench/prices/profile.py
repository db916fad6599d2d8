"""A profile: how long layers and whole networks took in a target's runtime on one device, as a file for everyone.

It holds what was measured, and no fitted numbers: every reader fits the same model to it (`dwindle.bench.prices.fit`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from dwindle.bench.result import Machine
from dwindle.documents import Count, Range, parse, read
from dwindle.errors import CheckpointError, UsageError
from dwindle.files import write_json
from dwindle.price import Shape

SCHEMA = 1
"""The version of the document. Others are refused."""
Positive = Annotated[float, Range(0, 1e6)]
Milliseconds = Annotated[float, Range(1e-6, 1e6)]
_FEWEST = 20
"""Layers that a profile has at least."""
_REMEDY = "run `dwindle profile` again"


@dataclass(frozen=True)
class Layer:
    """How long one layer takes by itself, without what running a file with next to nothing in it takes."""

    shape: Shape
    ms: Milliseconds


@dataclass(frozen=True)
class Whole:
    """How long a whole network takes."""

    name: str
    layers: tuple[Shape, ...]
    """Its convolutions and linear layers, in the order in which they are computed."""
    ms: Milliseconds


@dataclass(frozen=True)
class Errors:
    """How far predictions are off that are made without what they predict, as shares of what was measured."""

    median: Positive
    p90: Positive
    """Nine in ten are off by less."""
    count: Count


@dataclass(frozen=True)
class Timed:
    """What was measured at one precision."""

    precision: str
    layers: tuple[Layer, ...]
    wholes: tuple[Whole, ...]
    layer_errors: Errors
    """Of layers, each predicted from the others of five parts."""
    whole_errors: Errors
    """Of networks, each predicted from all layers and the other networks."""

    @property
    def possible(self) -> bool:
        """Whether there are enough layers, and all can exist; raises ValueError where sizes don't go together."""
        shapes = [one.shape for one in self.layers] + [shape for whole in self.wholes for shape in whole.layers]
        made = all(shape.macs > 0 and min(shape.spatial, default=1) > 0 for shape in shapes)
        return made and len(self.layers) >= _FEWEST


@dataclass(frozen=True)
class Profile:
    """What `dwindle profile` writes.

    >>> profile = Profile.load("phone.json")
    >>> profile.device, profile.runtime, profile.timed[0].whole_errors.median
    """

    schema: int
    target: str
    runtime: str
    version: str
    """The runtime's version there."""
    device: str
    """The device's name, as `dwindle bench --device` has it."""
    machine: Machine
    threads: int
    clock: str
    """`thread-CPU time`, or `wall time` where the device has no such clock."""
    made: str
    """When, by this machine's clock."""
    seconds: float
    """How long it took."""
    drift: float
    """How much longer one layer took at its slowest than at its fastest, over the run, as a share."""
    timed: tuple[Timed, ...]
    """One entry for each precision."""

    def save(self, path: Path) -> None:
        """Writes it as JSON; raises DwindleError where that fails."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Reads a profile; raises UsageError for what is none, and for one of another schema."""
        try:
            document = read(Path(path))
            if isinstance(document, dict) and document.get("schema") != SCHEMA:
                raise UsageError(
                    f"{path} is a profile of schema {document.get('schema')!r}, and {SCHEMA} is read: {_REMEDY}",
                    code="other-schema",
                    path=Path(path),
                )
            profile: Profile = parse(cls, document, Path(path), _REMEDY)
        except CheckpointError as error:
            raise UsageError(str(error), code="not-a-profile", path=Path(path)) from error
        try:
            if not all(timed.possible for timed in profile.timed):
                raise ValueError
        except ValueError:
            raise UsageError(
                f"{path} has too few layers, or some that can't be: {_REMEDY}", code="not-a-profile", path=Path(path)
            ) from None
        return profile

    def at(self, precision: str) -> Timed:
        """What was measured at a precision; raises UsageError where nothing was."""
        found = next((one for one in self.timed if one.precision == precision), None)
        if found is None:
            has = ", ".join(one.precision for one in self.timed)
            raise UsageError(
                f"the profile of {self.device} has {self.target} files in {has}, and not in {precision}: make one with "
                f"`dwindle profile {self.device} --target {self.target} --precision {precision}`",
                code="other-precision",
                option="on",
                name=precision,
            )
        return found
