"""A Linux machine behind a connection: what it is, how busy it is, and how runtimes are brought there.

Everything goes into one folder there, which is removed in the end; nothing is installed.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from dwindle.bench.devices.conditions import SCRIPT, conditions, pinning
from dwindle.bench.devices.device import Device
from dwindle.bench.devices.transport import Transport
from dwindle.bench.launch import Launch
from dwindle.bench.machine import Reading, reading
from dwindle.bench.missing import Missing
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import DwindleError, RuntimeUnavailable

# Five lines: system, machine, release, cores, and the CPU's or the board's name as whoever knows it calls it. ARM
# kernels don't name the CPU in /proc/cpuinfo.
_FACTS = """
uname -s; uname -m; uname -r; getconf _NPROCESSORS_ONLN 2>/dev/null || nproc
{ getprop ro.product.model || tr -d '\\0' </proc/device-tree/model ||
  sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo; } 2>/dev/null | head -n 1
"""
_BUSY = "cat /proc/loadavg; cat /proc/pressure/cpu 2>/dev/null || :"


class Board(Device):
    """A machine that a transport reaches. Subclasses say by which, and what runs files there."""

    transport: Transport

    @abstractmethod
    def runtimes(self) -> Sequence[OnBoard]: ...

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where it can't be reached, or doesn't run Linux."""
        facts = self._sh(_FACTS).splitlines()
        if not facts or facts[0] != "Linux":
            system = facts[0] if facts else "a system that does not say its name"
            raise RuntimeUnavailable(
                f"{self.url} runs {system}: files are measured on Linux machines only", code="not-linux", name=self.url
            )
        system, self.architecture, release, cores, *name = [line.strip() for line in facts]
        cpu = name[0] if name and name[0] else self.architecture
        self._said = self._sh(SCRIPT)
        state = conditions(self._said)
        self.machine = Machine(cpu, int(cores) if cores.isdigit() else 1, f"{system} {release}", state)
        self.folder = self._sh(f'mktemp -d "{self.transport.scratch}/dwindle.XXXXXXXX"').strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DwindleError):  # it may be gone
            self.transport.run(["rm", "-rf", "--", self.folder])

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        """Copies files, or contents, to names in the folder there."""
        self.transport.put(files, self.folder)

    def busy(self) -> Reading:
        load, *pressure = self._sh(_BUSY).splitlines()
        return reading(load, "\n".join(pressure))

    def pinned(self, threads: int) -> Sequence[str]:
        """The words before a command that keep it to the fastest cores, where cores differ."""
        return pinning(self._said, threads)

    def _sh(self, script: str) -> str:
        return self.transport.run(["sh", "-c", script])


@dataclass(frozen=True)
class Program:
    """A program on the board that answers as `dwindle.bench.worker` does."""

    words: tuple[str, ...]
    """The command, to which the file and the number of threads are appended."""
    variables: dict[str, str]
    """Environment variables that it needs."""
    through: str | None
    """See `Launch.through`."""


@dataclass
class OnBoard(Launcher):
    """A runtime on a board."""

    name: str
    target: str
    board: Board
    install: Callable[[Board], Program]
    """Copies the runtime there; raises RuntimeUnavailable where it can't be had for that board."""

    def check(self) -> Missing | None:
        try:
            self._program  # noqa: B018  copied when first looked at
        except DwindleError as error:
            return Missing(str(error))
        return None

    def launch(self, path: Path, threads: int) -> Launch:
        name = f"{self.target}-{path.name}"
        self.board.put({name: path})
        pinned = self.board.pinned(threads)
        words = [*pinned, *self._program.words, f"{self.board.folder}/{name}", str(threads)]
        variables = {**self._program.variables, "OMP_NUM_THREADS": str(threads)}
        through = ", ".join(part for part in (self._program.through, " ".join(pinned)) if part) or None
        return Launch(self.board.transport.command(words, variables), through)

    @cached_property
    def _program(self) -> Program:
        return self.install(self.board)
