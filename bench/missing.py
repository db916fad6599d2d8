"""What a runtime or a device needs and this machine does not have."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.errors import RuntimeUnavailable


@dataclass(frozen=True)
class Missing:
    """One thing that is needed and not here.

    >>> str(Missing("there is no adb on the path", "apt-get install adb"))
    'there is no adb on the path: run `apt-get install adb`'
    """

    reason: str
    """What is missing, as a sentence without a full stop."""
    command: str | None = None
    """The shell command that adds it; None where no command can."""

    def __str__(self) -> str:
        return f"{self.reason}: run `{self.command}`" if self.command else self.reason

    def error(self, subject: str | None = None) -> RuntimeUnavailable:
        """The exception that says so, of a device or a runtime where `subject` names one."""
        return RuntimeUnavailable(f"{subject}: {self}" if subject else str(self), code="missing", name=subject)
