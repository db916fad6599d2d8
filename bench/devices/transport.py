"""What reaching a device comes to: commands with their standard streams, and files, through a program of the user's."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dwindle.errors import RuntimeUnavailable

PATIENCE = 120.0
"""Seconds for anything but measuring: 20 MB over a slow radio, say."""


class Transport(Protocol):
    """To one device."""

    @property
    def url(self) -> str: ...

    @property
    def scratch(self) -> str:
        """A folder there, in the words of its shell, where ours may lie."""

    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """What runs `words` there, its standard streams ours. `variables` are set there."""

    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        """What `words` print there, `given` being their standard input.

        Raises RuntimeUnavailable where the machine can't be reached, or what was asked of it fails.
        """

    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        """Copies files, or contents, to names below a folder there. Raises as `run`."""


def line(words: Sequence[str], variables: Mapping[str, str] | None) -> str:
    """What a device's shell is told, to run `words` with `variables` set."""
    return shlex.join(
        [*(["env", *(f"{name}={value}" for name, value in variables.items())] if variables else []), *words]
    )


def ask(url: str, command: Sequence[str], given: bytes, what: str, package: str) -> tuple[int, str, list[str]]:
    """The exit code of a program that reaches `url`, what it printed and the lines of what it said besides.

    `what` was asked, for the message, and `package` has the program. Raises RuntimeUnavailable where that isn't
    installed, or doesn't answer.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise RuntimeUnavailable(
            f"{url} is reached with {command[0]}, which is not installed here: apt-get install {package}"
        ) from None
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailable(f"{url} did not answer {what!r} within {PATIENCE:g} s") from None
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return done.returncode, done.stdout.decode(errors="replace"), said
