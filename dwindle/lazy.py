"""Public names that are imported when they are first used: `--help` must not wait for torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module-level `__getattr__` (PEP 562) for `package`, whose public names live in the modules that `homes` names.

        __getattr__ = lazy_attributes(__name__, {"compress": "dwindle.compress.compression"})

    A public name must not be that of a submodule of the same package: importing the submodule would replace it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return get
