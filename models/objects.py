"""What a checkpoint records of a network or task that the caller made in Python, and that no name leads to."""

from __future__ import annotations

PREFIX = "object:"


def recorded(thing: object) -> str:
    """The class of an object, in place of a name that leads to it.

    >>> recorded(nn.ReLU())
    'object:torch.nn.modules.activation.ReLU'
    """
    return f"{PREFIX}{type(thing).__module__}.{type(thing).__qualname__}"


def is_object(spec: str) -> bool:
    """Whether what is recorded as a name stands for an object that only Python can give."""
    return spec.startswith(PREFIX)
