"""What a runtime is: something that loads an exported file and runs it on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from dwindle import registry
from dwindle.errors import DwindleError

if TYPE_CHECKING:
    import numpy as np

    from dwindle.bench.measure import Reading
    from dwindle.bench.result import Machine

GROUP = "dwindle.runtimes"
Infer = Callable[[list["np.ndarray"]], list["np.ndarray"]]
Progress = Callable[[str], None]


class Runtime(Protocol):
    """Runs files of one target. Third parties add one through the entry-point group `dwindle.runtimes`."""

    name: str
    target: str
    """The export target whose files it loads."""

    def unavailable(self) -> str | None:
        """Why it cannot run on this machine, in words; None where it can. Imports nothing heavy."""

    def version(self) -> str:
        """Imports the library, so that a `load` timed after it is the loading of the file alone."""

    def load(self, path: Path, threads: int) -> Infer:
        """Loads a file. What comes back maps input arrays (batch of one) to output arrays."""


@runtime_checkable
class Native(Protocol):
    """What a Runtime may have besides: a program of its own that answers as `worker` does, without Python."""

    native: str
    """What that program is, in a word or two, and `bindings` is what `load` goes through instead."""
    bindings: str

    def command(self, path: Path, threads: int) -> list[str]:
        """The program on a file; raises DwindleError where it can't be had."""


@runtime_checkable
class Elsewhere(Protocol):
    """A runtime on a device: a Runtime but for `load`, which happens there."""

    @property
    def name(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def device(self) -> Device: ...

    def unavailable(self) -> str | None:
        """As a Runtime's. Brings there what runs the files."""

    def launch(self, path: Path, threads: int) -> Launch:
        """Copies the file there, and returns what starts a worker on it; raises DwindleError where that fails."""


class Device(Protocol):
    """Something that files are measured on besides this machine. A context manager: entering connects, and raises
    RuntimeUnavailable where that fails; leaving removes what was brought there."""

    url: str
    """Its name, as `--device` has it."""
    machine: Machine
    """What it is; known once connected."""

    @property
    def targets(self) -> Sequence[str]:
        """Whose files it runs."""

    def busy(self) -> Reading:
        """What its kernel says of all that runs there."""

    def runtimes(self) -> Sequence[Elsewhere]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class TimedOnly(Protocol):
    """What a Device may have besides: figures of its rows that it can't tell."""

    unanswered: Mapping[str, str]
    """Why not, by their names in a row's reasons."""


@runtime_checkable
class Replaced(Protocol):
    """What a Runtime may have besides: something else that runs its files where its library isn't."""

    def stand_in(self) -> str | None:
        """What that is, in words: its answers count, its time doesn't. None where the library itself is here."""


@runtime_checkable
class Profiling(Protocol):
    """What a Runtime may have besides: a profiler."""

    def profile(
        self, path: Path, threads: int, sample: list[np.ndarray], iterations: int
    ) -> list[tuple[str, str, float, str]]:
        """Each operator of an inference: its name, its kind, mean milliseconds, and what ran it."""


@runtime_checkable
class Compiling(Protocol):
    """What a Runtime may have besides: a first inference that compiles the file, and keeps what it made for others."""

    compiles: bool


@runtime_checkable
class Accelerated(Protocol):
    """What a Runtime may have besides: something else than the CPU that computes, so that wall time counts."""

    accelerator: str
    """Its name. An inference ends when the outputs are in the CPU's memory."""


@runtime_checkable
class Particular(Protocol):
    """What an Elsewhere may have besides: files that it is not meant for, and arithmetic of its own."""

    tolerance: float | None
    """How far its outputs may be from those here, over the largest; None: what the manifest allows."""

    def concerns(self, path: Path) -> bool:
        """Whether it has anything to show of a compressed file."""


@dataclass(frozen=True)
class Launch:
    """How a worker of a runtime is started on a file."""

    command: list[str]
    through: str | None
    """Which of its two ways a runtime takes, and why it isn't the native one; None where there is one way."""
    patience: float | None = None
    """Seconds that an answer may take, where that isn't `process.PATIENCE`."""


def unreported(device: Device | None) -> Mapping[str, str]:
    """What a device can't tell of a row, and why."""
    return device.unanswered if isinstance(device, TimedOnly) else {}


def launch(runtime: Runtime | Elsewhere, path: Path, threads: int) -> Launch:
    """The runtime's own program where it has one that can be had here, and Python otherwise."""
    if isinstance(runtime, Elsewhere):
        return runtime.launch(path, threads)
    python = python_worker(runtime.name, path, threads)
    if not isinstance(runtime, Native):
        return Launch(python, runtime.stand_in() if isinstance(runtime, Replaced) else None)
    try:
        return Launch(runtime.command(path, threads), runtime.native)
    except DwindleError as error:
        return Launch(python, f"{runtime.bindings}: {error}")


def python_worker(name: str, path: Path, threads: int) -> list[str]:
    """A worker in Python. -P: a folder of the user's named like a module of ours must not come first."""
    return [sys.executable, "-P", "-m", "dwindle.bench.worker", name, str(path), str(threads)]


def load(name: str) -> Runtime:
    """The runtime of that name; raises UsageError for an unknown one."""
    runtime: Runtime = registry.resolve(GROUP, name, "runtime")()
    return runtime


def all_runtimes() -> list[Runtime]:
    """Every registered runtime, whether or not it can run here."""
    return [load(name) for name in registry.names(GROUP)]
