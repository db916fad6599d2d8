"""The contract of a connection to a machine: it runs commands there and copies files, by a program of the user's."""

from __future__ import annotations

import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from dwindle.bench.missing import Missing
from dwindle.errors import RuntimeUnavailable

PATIENCE = 120.0
"""Seconds that anything but measuring may take, such as copying 20 MB over a slow radio."""


class Transport(ABC):
    """A connection to one machine."""

    url: str
    """The device's name, as `--device` has it."""
    scratch: str
    """A folder there, in the words of its shell, in which ours may be made."""

    @abstractmethod
    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """The command that, run here, runs `words` there with environment variables set; its standard streams are
        connected to those of the command there."""

    @abstractmethod
    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        """Runs `words` there with `given` on standard input, and returns what they print.

        Raises RuntimeUnavailable where the machine can't be reached, or the command fails.
        """

    @abstractmethod
    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        """Copies files, or contents, to names in a folder there. Raises as `run` does."""


def line(words: Sequence[str], variables: Mapping[str, str] | None) -> str:
    """A line for a machine's shell that runs `words` with environment variables set."""
    return shlex.join(
        [*(["env", *(f"{name}={value}" for name, value in variables.items())] if variables else []), *words]
    )


def ask(url: str, command: Sequence[str], given: bytes, what: str, package: str) -> tuple[int, str, list[str]]:
    """Runs a program that reaches the device `url`, with `given` on its standard input.

    Returns its exit code, what it printed, and the lines on its standard error. `what` says what it is to do, for the
    message, and `package` is Debian's that has the program. Raises RuntimeUnavailable where it isn't installed or
    doesn't answer in time.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        missing = Missing(f"it is reached with {command[0]}, which is not installed here", f"apt-get install {package}")
        raise missing.error(url) from None
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(
            f"{url} did not answer {what!r} within {PATIENCE:g} s", code="unreachable", name=url
        ) from None
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return done.returncode, done.stdout.decode(errors="replace"), said
