"""What is found by name: objects that this and other packages register as entry points, and the nearest known name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from dwindle.errors import UsageError
from dwindle.quantities import format_names

MOST = 40
"""How many names are listed: all options of a command, and not all of timm's thousand networks."""


def entries(group: str) -> Mapping[str, EntryPoint]:
    """What is registered in an entry-point group, by name.

    To read what is installed takes longer than to use it, and happens once for each list of places that Python imports
    from: a package that is installed into one of them later is found by the next process.
    """
    return _read(group, tuple(sys.path))


@lru_cache
def _read(group: str, paths: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def names(group: str) -> list[str]:
    """The names registered in an entry-point group, sorted."""
    return sorted(entries(group))


def resolve(group: str, name: str, what: str) -> Any:
    """The object registered as `name`; `what` says what it is (`target`, `score`), for the message.

    Raises UsageError for an unknown name, with the nearest known one.
    """
    found = entries(group)
    if name not in found:
        raise unknown_name(what, name, list(found))
    return found[name].load()


def unknown_name(what: str, name: str, known: list[str], *, option: str | None = None) -> UsageError:
    """The error for a name that isn't known, with the nearest one that is; `option` is the option that gave it."""
    return UsageError(unknown(what, name, known), code="unknown-name", name=name, option=option)


def unknown(what: str, name: str, known: list[str]) -> str:
    """One sentence for a name that isn't known, naming the nearest one that is, or else MOST at most."""
    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"there are {format_names(sorted(known), MOST)}"
    return f"unknown {what} {name!r}: {hint}"


T = TypeVar("T")


def resolve_class(group: str, name: str, what: str, contract: type[T]) -> type[T]:
    """The class registered as `name`, which has to be a subclass of `contract`.

    Raises UsageError for an unknown name, for what cannot be imported, and for anything that is no such subclass.
    """
    contract_name = f"{contract.__module__}.{contract.__qualname__}"
    try:
        found = resolve(group, name, what)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the {what} {name!r}, which a package registers as a `{group}` entry point, cannot be imported: {error}",
            code="not-importable",
            name=name,
        ) from error
    if not (isinstance(found, type) and issubclass(found, contract)):
        raise UsageError(
            f"the {what} {name!r}, which a package registers as a `{group}` entry point, is not a subclass of "
            f"{contract_name}: derive it from that class",
            code="not-a-subclass",
            name=name,
        )
    return found
