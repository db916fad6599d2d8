"""One page about several checkpoints of one task: what each method kept of the accuracy, at what size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dwindle.bench.baseline import network
from dwindle.bench.figures import Files, figures
from dwindle.bench.result import Bench
from dwindle.bench.views.axes import interval
from dwindle.bench.views.methods_chart import KINDS, Series, best, in_bytes, methods, methods_chart, sign
from dwindle.bench.views.page import CHARTS, render
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.manifest import Manifest, manifests
from dwindle.record import flattened


def frontier_report(checkpoints: Sequence[Checkpoint | Path | str], out: Path | str) -> Path:
    """Writes a page that compares several `checkpoints` of one task to `out`, and returns its path.

        >>> frontier_report(["a.dwindle", "b.dwindle"], "frontier.html")
        PosixPath('frontier.html')

    Raises UsageError where their accuracies are of different tasks or one has no rounds yet, CheckpointError for
    damaged files, DwindleError where `out` cannot be written.
    """
    opened = [one if isinstance(one, Checkpoint) else Checkpoint.load(one) for one in checkpoints]
    tasks = {_task(one): one.path for one in opened}
    if len(tasks) > 1:
        (first, at), (second, there), *_ = tasks.items()
        raise UsageError(f"{at} is of {first} and {there} of {second}: their accuracies can't be compared on one page")
    for one in opened:
        if not one.history:
            raise UsageError(f"{one.path} has no finished round yet: nothing of it can be shown")
    return render("frontier.html.jinja", _facts(opened), Path(out))


def _facts(opened: Sequence[Checkpoint]) -> dict[str, Any]:
    names = _names(opened)
    series = [Series(name, kind, one.history) for name, kind, one in zip(names, _kinds(opened), opened, strict=True)]
    order, counted = methods(series), in_bytes(series)
    found = [manifests(one.exports) for one in opened]
    exported = [{manifest.target: manifest for _, manifest in one} for one in found]
    return {
        "title": ", ".join(dict.fromkeys(network(one) for one in opened)),
        "methods": [
            (method, sign(f"k{index % KINDS}"), [one.name for one in series if one.method == method])
            for index, method in enumerate(order)
        ],
        "charts": [methods_chart(series, *size) for size in CHARTS],
        "counted": counted,
        "counted_on": list(dict.fromkeys(str(one.origin.get("target")) for one in opened)) if counted else [],
        "series": series,
        "best": best(series),
        "banded": any(interval(record) for one in series for record in one.history),
        "targets": list(dict.fromkeys(target for own in exported for target in own)),
        "files": [
            (one, own, _tested(path, files))
            for one, own, files, path in zip(series, exported, found, opened, strict=True)
        ],
    }


_ALIKE = ("seed", "task.seed", "size", "density", "macs", "cost", "latency", "max_drop", "max_change", "rounds")
"""Options that make no other series: repetitions of one way to compress, and the budgets along its frontier."""


def _kinds(opened: Sequence[Checkpoint]) -> list[str]:
    """What each checkpoint's series is called: its method, and up to two options by which others of that method differ.

    Those with the same have one colour.
    """
    origins = [flattened(one.origin) for one in opened]
    kinds = []
    for origin in origins:
        method = origin.get("method") or "unnamed method"
        rivals = [other for other in origins if other.get("method") == origin.get("method")]
        names = sorted({name for other in rivals for name in other} - {*_ALIKE, "method"})
        differ = [name for name in names if len({str(other.get(name)) for other in rivals}) > 1]
        given = [name for name in differ if origin.get(name) is not None][:2]
        said = ", ".join(f"{name.removeprefix('task.').replace('_', ' ')} {origin[name]}" for name in given)
        kinds.append(f"{method}, {said}" if said else str(method))
    return kinds


def _tested(opened: Checkpoint, exported: Sequence[tuple[Path, Manifest]]) -> dict[str, str]:
    """The test accuracy of each target's compressed file, of those where it was measured."""
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    found = {
        manifest.target: figures(
            "min_accuracy", Files(manifest.target, folder / manifest.file.name, manifest, measured, None)
        )[0][1][0]
        for folder, manifest in exported
    }
    return {target: f"{score:.2f}%" for target, score in found.items() if score is not None}


def _task(opened: Checkpoint) -> str:
    task = opened.origin.get("task")
    return str((task.get("data") or task.get("task")) if isinstance(task, dict) else task)


def _names(opened: Sequence[Checkpoint]) -> list[str]:
    """Folder names, with as much of the path before them as tells them apart."""
    for depth in range(1, 1 + max(len(one.path.resolve().parts) for one in opened)):
        names = ["/".join(one.path.resolve().parts[-depth:]).removesuffix(".dwindle") for one in opened]
        if len(set(names)) == len(names):
            return names
    raise UsageError("one checkpoint is named twice")
