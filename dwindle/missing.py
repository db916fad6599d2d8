"""What `pip install dwindle` leaves out, and the line that adds it: the packages that some commands need are extras."""

from __future__ import annotations

import re
from importlib.metadata import requires

_WHOLE = "all"
_IMPORTED_AS = {"sklearn": "scikit-learn", "cyclonedx": "cyclonedx-python-lib", "cryptography": "securesystemslib"}
"""Packages whose import name isn't their own."""


def line(error: ModuleNotFoundError, command: str) -> str | None:
    """The line that installs the package whose import failed in a command; None where none of dwindle's extras has it.

    The extra is the one that is called as the command is, if it has the package, else everything that needs PyTorch.

        >>> line(ModuleNotFoundError(name="torch"), "export")
        "pip install 'dwindle[export]'"
    """
    module = (error.name or "").partition(".")[0]
    package = _normal(_IMPORTED_AS.get(module, module))
    found = {extra for name, extra in _required() if name == package}
    if not found:
        return None
    extra = command if command in found else _WHOLE if found & {"compress", "export"} else min(found)
    return f"pip install 'dwindle[{extra}]'"


def _required() -> list[tuple[str, str]]:
    """The packages that extras bring, each with the extra."""
    lines = [re.fullmatch(r"([\w.-]+).*extra == [\"'](\w+)[\"'].*", text) for text in requires("dwindle") or []]
    return [(_normal(match[1]), match[2]) for match in lines if match]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
