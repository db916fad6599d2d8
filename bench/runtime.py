"""What a runtime is: something that loads an exported file and runs it on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dwindle import registry

if TYPE_CHECKING:
    import numpy as np

GROUP = "dwindle.runtimes"
Infer = Callable[[list["np.ndarray"]], list["np.ndarray"]]


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


def load(name: str) -> Runtime:
    """The runtime of that name; raises UsageError for an unknown one."""
    runtime: Runtime = registry.resolve(GROUP, name, "runtime")()
    return runtime


def all_runtimes() -> list[Runtime]:
    """Every registered runtime, whether or not it can run here."""
    return [load(name) for name in registry.names(GROUP)]
