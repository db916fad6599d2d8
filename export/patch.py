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


@contextmanager
def without_autocast() -> Iterator[None]:
    """Lets networks compute in the types of their weights in the block, whatever they do `with torch.autocast(…)`: what
    a file computes in is its target's matter, and hardly any runtime has bfloat16."""
    import torch

    with (
        replaced(torch.autocast, "__enter__", lambda self: self),
        replaced(torch.autocast, "__exit__", lambda *_: None),
    ):
        yield
