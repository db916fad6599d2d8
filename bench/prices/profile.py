"""A profile: how long layers and whole networks take in a target's runtime on one device, as a file for everyone.

It holds what was measured, and no fitted numbers: every reader fits the same model to it (`dwindle.bench.prices.fit`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from dwindle.bench.result import Machine
from dwindle.documents import Count, Range, Reads, parse, read
from dwindle.errors import CheckpointError, UsageError
from dwindle.files import write_json
from dwindle.price import Layers, Shape, shapes_of

SCHEMA = 1
CPU_TIME, WALL_TIME = "thread-CPU time", "wall time"
"""The clocks."""
"""The version of the document. Others are refused."""
Positive = Annotated[float, Range(0, 1e6)]
Milliseconds = Annotated[float, Range(1e-6, 1e6)]
_FEWEST = 20
"""Layers that a profile has at least, where it has any."""
_FEWEST_WHOLES = 12
"""Networks that a profile without layers has at least."""
_REMEDY = "run `dwindle profile` again"


@dataclass(frozen=True)
class Layer:
    """How long one layer takes by itself, without what running a file with next to nothing in it takes."""

    shape: Shape
    ms: float


@dataclass(frozen=True)
class Whole:
    """How long a whole network takes."""

    name: str
    layers: Layers
    """Its convolutions and linear layers."""
    ms: Milliseconds

    @property
    def shapes(self) -> Counter[Shape]:
        return shapes_of(self.layers)

    @property
    def architecture(self) -> str:
        return self.name.partition(" ")[0]


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
    layers: dict[Annotated[str, Reads(Shape.parse)], Milliseconds]
    """Milliseconds of each layer by itself; empty where only whole networks are known."""
    wholes: tuple[Whole, ...]
    layer_errors: Errors | None
    """Of layers, each predicted from the others of five parts; None where there are none."""
    whole_errors: Errors
    """Of networks, each predicted from all layers and the other networks."""

    @property
    def singles(self) -> list[Layer]:
        return [Layer(Shape.parse(text), ms) for text, ms in self.layers.items()]

    @property
    def enough(self) -> bool:
        """Whether there is enough to predict anything from."""
        return len(self.layers) >= _FEWEST if self.layers else len(self.wholes) >= _FEWEST_WHOLES


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
    """CPU_TIME, or WALL_TIME where the device has no such clock."""
    made: str
    """When, by this machine's clock."""
    seconds: float
    """How long it took; 0 where the figures are others', as `source` says."""
    drift: float
    """How much longer one layer took in the slowest third of the run than in the fastest, as a share."""
    timed: tuple[Timed, ...]
    """One entry for each precision."""
    source: str | None = None
    """Where its figures come from, as everyone is told who uses it, of a profile that stands for a kind of device and
    for every version of the runtime. None: it was measured for this device, and holds for this version alone."""

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
        if not all(timed.enough for timed in profile.timed):
            raise UsageError(
                f"{path} has too few layers and networks to predict others: {_REMEDY}",
                code="not-a-profile",
                path=Path(path),
            )
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
