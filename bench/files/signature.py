"""How a network's interface differs from an earlier one: the names, types and shapes by which an app calls it."""

from __future__ import annotations

from collections.abc import Iterator

from dwindle.bench.files.contents import Contents, Tensor


def changes(before: Contents, after: Contents) -> list[str]:
    """A sentence for each input and output that was added, removed, renamed, or has another type or shape."""
    sides = (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs))
    return [sentence for what, old, new in sides for sentence in _changes(what, old, new)]


def _changes(what: str, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> Iterator[str]:
    old, new = ({tensor.name: tensor for tensor in side} for side in (before, after))
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"there is no {what} {old[name]} any more"
        elif name not in old:
            yield f"there is a new {what} {new[name]}"
        elif old[name] != new[name]:
            yield f"the {what} {old[name]} is now {new[name]}"
