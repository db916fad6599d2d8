"""What a model file's bytes are spent on, by layer, and what of it grew over an earlier version."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dwindle.bench.files.contents import GRAPH, Contents

_Key = tuple[str, str]


@dataclass(frozen=True)
class Spent:
    """Bytes of one kind that belong to one layer."""

    layer: str
    """The module's path, where tensors are called by it, else the tensor's or operator's name; may be empty."""
    kind: str
    """One of `dwindle.bench.files.contents`: values, mask, table, constant or graph."""
    bytes: int
    before: int | None = None
    """The same of the earlier version; None where there is none."""

    @property
    def growth(self) -> int:
        return 0 if self.before is None else self.bytes - self.before


def spent(after: Contents, before: Contents | None = None, most: int | None = None) -> list[Spent]:
    """What the bytes of a file are, the largest first; with an earlier version, what grew the most first.

    The bytes of all add up to the file's, and those before to the earlier file's.

    most: how many there may be at most; the last one is then what the others are together.
    """
    now, then = _by_layer(after), _by_layer(before) if before else {}
    found = [
        Spent(layer, kind, now.get((layer, kind), 0), then.get((layer, kind), 0) if before else None)
        for layer, kind in {**now, **then}
    ]
    found.sort(key=lambda one: (-one.growth, -one.bytes, one.layer))
    if most is None or len(found) <= most:
        return found
    shown = found[: most - 1]
    if before:  # what shrank the most is among those that say why
        shown = [*found[: most // 2], *found[len(found) - (most - 1 - most // 2) :]]
    kept = {(one.layer, one.kind) for one in shown}
    others = [one for one in found if (one.layer, one.kind) not in kept]
    sizes = sum(one.bytes for one in others), sum(one.before or 0 for one in others) if before else None
    return [*shown, Spent(f"{len(others)} more", "", *sizes)]


def _by_layer(contents: Contents) -> dict[_Key, int]:
    found: Counter[_Key] = Counter()
    for part in contents.parts:
        found[_layer(part.kind, part.name), part.kind] += part.bytes
    return dict(found)


def _layer(kind: str, name: str) -> str:
    """`layer1.0.conv1` of `layer1.0.conv1.weight`; an operator's own name."""
    return name if kind == GRAPH else name.rpartition(".")[0] or name
