"""Replacing a function of a library while a block runs, where the library has no option for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Sets an attribute of a module or class, and puts the original back when the block ends."""
    original = vars(owner)[name]  # as it stands there: a static method stays one
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
