"""Every failure a user can meet, and the exit code of each.

0 fine · 1 error · 2 usage · 3 budget missed · 4 parity failed · 5 runtime unavailable · 130 interrupted.
The message of each is one sentence: what was wrong, where, and what to do about it.
"""

from __future__ import annotations


class DwindleError(Exception):
    """Something went wrong that the user can act on."""

    exit_code = 1


class UsageError(DwindleError):
    """The request itself cannot be served: an unknown name, a value out of range, data of the wrong shape."""

    exit_code = 2


class BudgetMissed(DwindleError):
    """A limit of size, accuracy or latency does not hold."""

    exit_code = 3


class ParityFailed(DwindleError):
    """A file does not compute what the checkpoint it came from computes."""

    exit_code = 4


class RuntimeUnavailable(DwindleError):
    """A figure was asked for that nothing on this machine can measure: never a pass."""

    exit_code = 5


class CheckpointError(DwindleError):
    """A checkpoint is corrupt, truncated, or of a schema this version does not read."""
