"""Every failure a user can meet, and the exit code of each.

0 fine · 1 error · 2 usage · 3 budget missed · 4 parity failed · 5 runtime unavailable · 130 interrupted.
The message of each is one sentence: what was wrong, where, and what to do about it.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import ClassVar


class DwindleError(Exception):
    """Something went wrong that the user can act on. Exit code 1.

    What a program needs to know is in fields, so that the sentence may be reworded at any time:

        >>> error = UsageError("`seed` is -1: give 0 or more", code="out-of-range", option="seed")
        >>> error.code, error.option, error.exit_code
        ('out-of-range', 'seed', 2)

    A message names an option as its Python field in backticks; the command line prints the flag instead.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        option: str | None = None,
        path: Path | str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        """What kind of failure this is, in one or a few hyphenated words that stay the same: `unknown-name`."""
        self.option = option
        """The option at fault, by its Python name: `prune_per_round`."""
        self.path = Path(path) if path is not None else None
        """The file or folder at fault."""
        self.name = name
        """What else is at fault, by its name: a layer, a tensor, a target, a device, a member of a task."""


class UsageError(DwindleError):
    """The request itself cannot be served: an unknown name, a value out of range, wrong data. Exit code 2."""

    exit_code = 2


class BudgetMissed(DwindleError):
    """A limit of size, accuracy or latency does not hold, or no pruning can reach a budget. Exit code 3."""

    exit_code = 3


class ParityFailed(DwindleError):
    """A file does not compute what the checkpoint it came from computes. Exit code 4."""

    exit_code = 4


class RuntimeUnavailable(DwindleError):
    """A figure was requested that nothing on this machine can measure. Exit code 5, which is never a pass."""

    exit_code = 5


class CheckpointError(DwindleError):
    """A checkpoint is damaged, incomplete, or of a schema that this version does not read. Exit code 1."""


def one_line(error: BaseException, *, root_cause: bool = False, placed: bool = False) -> str:
    """An exception in one line: `ValueError: the first line of its message`.

    root_cause: of the exception that was raised first, where others were raised from it, as libraries do.
    placed: with the line of the user's own code where it began, if it began there:
    `ValueError: no weights; net.py, line 3`.
    """
    while root_cause and error.__cause__:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".:")
    said = f"{type(error).__name__}: {line}" if line else type(error).__name__
    place = _place(error) if placed else None
    return f"{said}; {place}" if place else said


def _place(error: BaseException) -> str | None:
    """The innermost line that belongs neither to dwindle nor to Python or an installed package."""
    if isinstance(error, SyntaxError):
        return None  # its message has it
    theirs = (sysconfig.get_path("stdlib"), "<")
    own = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(theirs)
        and "site-packages" not in frame.f_code.co_filename
        and frame.f_globals.get("__name__", "").partition(".")[0] != "dwindle"
    ]
    return own[-1] if own else None
