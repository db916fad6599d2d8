"""Objects of the user's own code by name: `package.module:factory`, from the working directory or the environment."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.registry import unknown


def load_factory(spec: str, what: str) -> Callable[..., Any]:
    """Returns the callable that `package.module:factory` names; `what` (model, data, task) is for the message.

    Raises UsageError where the module can't be imported or has no such callable.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise UsageError(
            f"the {what} {spec!r} is not of the form package.module:factory", code="bad-factory", option=what, name=spec
        )
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: the user's own module is why they are in this folder
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's own module does at import
        raise UsageError(
            f"the {what} {spec!r} can't be imported: {one_line(error, placed=True)}",
            code="bad-factory",
            option=what,
            name=spec,
        ) from error
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(
            unknown(f"factory in {module_name}", name, public or ["none"]), code="bad-factory", option=what, name=spec
        )
    factory = getattr(module, name)
    if not callable(factory):
        raise UsageError(
            f"the {what} {spec!r} is a {type(factory).__name__}: it must be a function",
            code="bad-factory",
            option=what,
            name=spec,
        )
    return factory  # type: ignore[no-any-return]


def parameters(factory: Callable[..., Any]) -> set[str]:
    """Returns the names of a factory's keyword parameters, without those that `**kwargs` would take."""
    try:
        found = inspect.signature(factory).parameters.values()
    except ValueError:  # some builtins have no signature
        return set()
    return {item.name for item in found if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}


def _takes_any(factory: Callable[..., Any]) -> bool:
    try:
        return any(item.kind is item.VAR_KEYWORD for item in inspect.signature(factory).parameters.values())
    except ValueError:
        return False


def call_factory(spec: str, what: str, through: str | None = None, **offered: Any) -> Any:
    """Calls the factory with those of `offered` that its signature names.

    through: one of them that is also handed to a factory that has `**kwargs`, as those of timm and torchvision have;
    without it again, where that is refused as an unexpected keyword.
    Raises UsageError as `load_factory` does, and where the call itself fails.
    """
    factory = load_factory(spec, what)
    taken = {key: value for key, value in offered.items() if key in parameters(factory)}
    hidden = {through: offered[through]} if through in offered and _takes_any(factory) else {}
    try:
        try:
            return factory(**{**hidden, **taken})
        except TypeError as error:
            if not hidden.keys() - taken or f"unexpected keyword argument '{through}'" not in str(error):
                raise
            return factory(**taken)
    except DwindleError:
        raise
    except (Exception, SystemExit) as error:  # the user's code: its error is theirs to read, in one line
        raise UsageError(
            f"the {what} {spec!r} failed when called: {one_line(error, placed=True)}",
            code="bad-factory",
            option=what,
            name=spec,
        ) from error
