"""The contract of a runtime: something that loads exported files of one target and runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.bench.launch import Launch, python_worker
from dwindle.errors import DwindleError

if TYPE_CHECKING:
    import numpy as np

    from dwindle.bench.missing import Missing

GROUP = "dwindle.runtimes"
Infer = Callable[[list["np.ndarray"]], list["np.ndarray"]]
"""From one array per input of the file, each a batch of one, to one array per output."""


class Launcher(ABC):
    """Starts workers that run the files of one target in one place: on this machine, or on a device.

    A device lists its own (`Device.runtimes`); those of this machine are the subclass Runtime.
    """

    name: str
    """What runs the files, as reports name it: `onnxruntime`."""
    target: str
    """The export target whose files it runs: `onnx`."""
    tolerance: float | None = None
    """How far outputs may be from this machine's, over the largest of them, where it computes in another arithmetic
    than the file says; None for the tolerance in the file's manifest."""

    @abstractmethod
    def check(self) -> Missing | None:
        """What is missing to run files, or None where it can. May bring to a device what runs files there."""

    @abstractmethod
    def launch(self, path: Path, threads: int) -> Launch:
        """Brings a file to where it runs, and says how a worker is started on it there.

        Raises DwindleError where that fails. Called after `check` has found nothing missing.
        """

    def applies_to(self, path: Path) -> bool:
        """Whether running this compressed file adds anything to what the target's other runtimes measure."""
        return True

    def stand_in(self) -> str | None:
        """What else runs the files where the library itself isn't here, in words: its answers count and its times do
        not. None where the library is here."""
        return None


class Runtime(Launcher):
    """A library of this machine, in a worker process per file. Third parties add one by a subclass and an entry point:

        [project.entry-points."dwindle.runtimes"]
        fast = "my_package:Fast"

    `check`, `version` and `load` are all that it needs; the rest has defaults. It is made without arguments.
    """

    native: str | None = None
    """What `native_command` starts, in a word or two; None where `load` is the only way."""
    bindings: str = "Python bindings"
    """What `load` goes through, for a runtime that has a native program too."""
    compiles: bool = False
    """Whether the first inference compiles the file and keeps what it made for later processes."""
    accelerator: str | None = None
    """What computes instead of the CPU, so that wall time counts. An inference ends when the outputs are in the CPU's
    memory."""
    profiles: bool = False
    """Whether `profile` is implemented."""

    @abstractmethod
    def check(self) -> Missing | None:
        """What is missing to run files on this machine, or None. Imports nothing heavy."""

    @abstractmethod
    def version(self) -> str:
        """The library's version. Imports it, so that a `load` timed after this is the loading of the file alone."""

    @abstractmethod
    def load(self, path: Path, threads: int) -> Infer:
        """Loads a file, which is called from then on with one sample at a time. Raises whatever the library raises."""

    def native_command(self, path: Path, threads: int) -> list[str]:
        """The command of a program without Python that answers as `dwindle.bench.worker` does.

        Only called where `native` says what that is. Raises DwindleError where it can't be had on this machine.
        """
        raise NotImplementedError

    def profile(
        self, path: Path, threads: int, sample: list[np.ndarray], iterations: int
    ) -> list[tuple[str, str, float, str]]:
        """Each operator of an inference: its name, its kind, mean milliseconds, and what ran it.

        Only called where `profiles` is true.
        """
        raise NotImplementedError

    def launch(self, path: Path, threads: int) -> Launch:
        """The runtime's native program where it has one that can be had here, and Python otherwise."""
        python = python_worker(self.name, path, threads)
        if self.native is None:
            return Launch(python, self.stand_in())
        try:
            return Launch(self.native_command(path, threads), self.native)
        except DwindleError as error:
            return Launch(python, f"{self.bindings}: {error}")


def load(name: str) -> Runtime:
    """The runtime registered under a name.

    Raises UsageError for an unknown name, and for a registered object that is not a subclass of Runtime.
    """
    return registry.resolve_class(GROUP, name, "runtime", Runtime)()  # type: ignore[type-abstract]


def all_runtimes() -> list[Runtime]:
    """Every registered runtime, whether or not it can run here."""
    return [load(name) for name in registry.names(GROUP)]
