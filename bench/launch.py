"""How a worker process, which holds one file in one runtime, is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_PYTHON = (sys.executable, "-P")
"""This Python with -P, so that a folder of the user's that is named like a module of dwindle does not come first."""


@dataclass(frozen=True)
class Launch:
    """How a worker is started on a file."""

    command: list[str]
    """A program that answers on standard output what `dwindle.bench.worker` describes."""
    through: str | None = None
    """Which of several ways to run the file this is, and why not the first choice; None where there is one way."""
    patience: float | None = None
    """Seconds that one answer may take, where that isn't `dwindle.bench.process.PATIENCE`."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in this Python."""
    return [*_PYTHON, "-m", module, *arguments]


def python_code(code: str) -> list[str]:
    """The command that runs a few lines in this Python."""
    return [*_PYTHON, "-c", code]


def python_worker(runtime: str, path: Path, threads: int) -> list[str]:
    """The command of a worker that loads a file into the registered runtime of that name."""
    return python_module("dwindle.bench.worker", runtime, str(path), str(threads))
