"""Whose code runs: code that the caller names, and never code that only a checkpoint names.

A checkpoint's seal proves that nothing in it was damaged. It does not prove who made it, so a factory that it names,
and the keywords it gives, may be anybody's.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection
from pathlib import Path

from dwindle.errors import UsageError
from dwindle.models.factory import load_factory
from dwindle.models.sources.source import registered

Trust = bool | Collection[str]
"""What a caller allows a checkpoint to run: the specs (`package.module:factory`) that it may name, or True for any."""


def is_code(spec: str) -> bool:
    """Whether a model's spec names a factory of somebody's own instead of a network of an installed library."""
    found = registered(spec)
    return found[0].is_code if found else ":" in spec


def require_trust(spec: str, what: str, trust: Trust, path: Path) -> None:
    """Checks, before anything is imported, that the code `spec`, which the checkpoint at `path` names, may run.

    `what` is `model`, `task` or `data`. A spec that the caller names too is allowed, whatever it is. With
    `trust=True` its module is imported, and it must be a function or class of the package that the spec names:
    `subprocess:getoutput` is neither a task nor a model.
    Raises UsageError otherwise, with the code `untrusted`, the spec as `name` and `what` as `option`.
    """
    if trust is True:
        _require_factory(spec, what, path)
    elif trust is False or spec not in trust:
        raise UsageError(
            f"{path} names code to run, {what} {spec!r}, and may come from anybody: if you know that code, name it "
            f"yourself with `{what}`, or set `trust` to run whatever the checkpoint names",
            code="untrusted",
            option=what,
            path=path,
            name=spec,
        )


def _require_factory(spec: str, what: str, path: Path) -> None:
    package = spec.partition(":")[0].partition(".")[0]
    refused = f"{path} names {what} {spec!r}, which is"
    if package in sys.stdlib_module_names:
        raise UsageError(
            f"{refused} a part of Python's standard library and no {what}: do not use this checkpoint",
            code="not-a-factory",
            option=what,
            path=path,
            name=spec,
        )
    factory = load_factory(spec, what)
    made_here = (getattr(factory, "__module__", None) or "").partition(".")[0] == package
    if not (made_here and (inspect.isfunction(factory) or inspect.isclass(factory))):
        raise UsageError(
            f"{refused} no function or class of that package: name it yourself with `{what}` if it is right",
            code="not-a-factory",
            option=what,
            path=path,
            name=spec,
        )
