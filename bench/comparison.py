"""Two checkpoints compared: their files, figures, layers and options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwindle.bench.baseline import network
from dwindle.bench.figures import Files
from dwindle.bench.result import COMPRESSED, Bench
from dwindle.checkpoint import Checkpoint
from dwindle.layers import layers
from dwindle.manifest import manifests
from dwindle.metrics import WITHOUT_LABELS
from dwindle.record import flattened

Interval = tuple[float, float]


@dataclass(frozen=True)
class Value:
    """A figure of one checkpoint."""

    value: float
    interval: Interval | None = None
    """The 95% interval."""


@dataclass(frozen=True)
class Figure:
    """One figure of both checkpoints; a value is None where it wasn't measured."""

    name: str
    """`size`, `download` (bytes), `accuracy` (points) or the name of what is judged without labels, `ratio` (time over
    the dense file's), `cost` (ARM64 instructions), `density` (share), `macs`."""
    target: str | None
    """The export target of the file; None for a figure of the network itself."""
    runtime: str | None
    before: Value | None
    after: Value | None


@dataclass(frozen=True)
class Change:
    """A layer's shape, an option, or how a target's file stores weights, that isn't the same in both; None where one
    has no such layer or option."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Diff:
    """What differs between two checkpoints: their figures, the shapes of their layers, and their options.

    `diff` makes it.
    """

    before: str
    """The path of the first checkpoint."""
    after: str
    """The path of the second checkpoint."""
    networks: tuple[str, str]
    """The network and task of each. Figures of two different networks can't be compared."""
    figures: tuple[Figure, ...]
    layers: tuple[Change, ...]
    options: tuple[Change, ...]
    stored: tuple[Change, ...] = ()
    """How the file of a target stores its weights, by the target, of those that both were exported to."""


def diff(before: Checkpoint | Path | str, after: Checkpoint | Path | str) -> Diff:
    """Compares two checkpoints, opened or given by their paths.

        >>> found = diff("before.dwindle", "after.dwindle")
        >>> [(figure.target, figure.before, figure.after) for figure in found.figures if figure.name == "size"]

    Raises CheckpointError for damaged files.
    """
    a, b = (given if isinstance(given, Checkpoint) else Checkpoint.load(given) for given in (before, after))
    figures_a, figures_b = dict(_figures(a)), dict(_figures(b))
    stored = [{manifest.target: manifest.encoding for _, manifest in manifests(each.exports)} for each in (a, b)]
    keys = sorted(figures_a.keys() | figures_b.keys(), key=_rank)
    return Diff(
        before=str(a.path),
        after=str(b.path),
        networks=(network(a), network(b)),
        figures=tuple(Figure(*key, figures_a.get(key), figures_b.get(key)) for key in keys),
        layers=_changes(*({layer.name: layer.after for layer in layers(each)} for each in (a, b))),
        options=_changes(*(flattened(each.origin) for each in (a, b))),
        stored=tuple(each for each in _changes(*stored) if each.before and each.after),
    )


_ORDER = ("density", "macs", "accuracy", "size", "download", "ratio", "cost")
_Key = tuple[str, str | None, str | None]


def _rank(key: _Key) -> tuple[int, str, str]:
    name, target, runtime = key
    return _ORDER.index("accuracy" if name in WITHOUT_LABELS else name), target or "", runtime or ""


def _figures(opened: Checkpoint) -> Iterator[tuple[_Key, Value]]:
    """The figures of a checkpoint, by name, target and runtime."""
    if opened.history:
        last = opened.history[-1]
        yield ("density", None, None), Value(last.density)
        if last.macs is not None:
            yield ("macs", None, None), Value(last.macs)
    if "test" in opened.metrics:
        yield (_judged(opened.metric), None, None), Value(opened.metrics["test"])
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    for folder, manifest in manifests(opened.exports):
        files = Files(manifest.target, folder / manifest.file.name, manifest, measured, None)
        yield ("size", manifest.target, None), Value(manifest.file.bytes)
        yield ("download", manifest.target, None), Value(manifest.fetched[0])
        for row in files.rows(COMPRESSED) if files.unmeasured is None else ():
            where = (manifest.target, row.runtime.place)
            if row.accuracy:
                yield (_judged(row.accuracy.metric), *where), Value(row.accuracy.value, row.accuracy.interval)
            if row.compare:
                yield ("ratio", *where), Value(row.compare.ratio, row.compare.ci95)
            if row.cost:
                yield ("cost", *where), Value(row.cost.instructions["all"])


def _judged(metric: str) -> str:
    return metric if metric in WITHOUT_LABELS else "accuracy"


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    names = dict.fromkeys((*before, *after))
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return tuple(Change(*pair) for pair in pairs if pair[1] != pair[2])
