"""What growth is counted from: another branch's bench.json, its whole checkpoint, or an earlier version of a file."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dwindle.bench.files.contents import contents
from dwindle.bench.files.signature import changes
from dwindle.bench.result import COMPRESSED, Bench, Row
from dwindle.checkpoint import Checkpoint
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.files import raw_bytes
from dwindle.manifest import manifests


@dataclass(frozen=True)
class Baseline:
    """Figures of the compressed files of an earlier version, by target."""

    bytes: dict[str, int]
    """Installed size of each target's file, 1 or more."""
    cost: dict[str, float]
    """ARM64 instructions that one inference of each target's file executes, of those where they were counted."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Points of the task's metric that each target's file reaches in the worst of its runtimes, of those measured."""
    download: dict[str, int] = field(default_factory=dict)
    """Bytes that a device downloads of each target's file, as its manifest or bench.json has it."""
    paths: dict[str, Path] = field(default_factory=dict, compare=False)
    """The files themselves, of those that are there."""
    deviation: dict[str, float] = field(default_factory=dict)
    """Standard deviation of each target's size in bytes over the runs of a history; empty for a single version."""


def network(checkpoint: Checkpoint) -> str:
    """The network that a checkpoint is of, however far it was compressed, such as `zoo:resnet8 on digits`."""
    model, task = checkpoint.origin.get("model"), checkpoint.origin.get("task")
    spec = model.get("spec") if isinstance(model, dict) else model
    data = (task.get("data") or task.get("task")) if isinstance(task, dict) else task
    return f"{spec} on {data}"


def read_baseline(path: Path, of: Checkpoint) -> Baseline:
    """The figures at `path` (bench.json or a checkpoint), to hold those of `of` against.

    Raises UsageError where nothing can be read at `path`, or the figures are of another network.
    """
    if not path.exists():
        raise UsageError(f"there is no baseline at {path}", code="missing", option="baseline", path=path)
    try:
        name, found = _checkpoint(path) if path.is_dir() else _bench(path)
    except CheckpointError as error:
        message = f"the baseline can't be used: {error}"
        raise UsageError(message, code=error.code, option="baseline", path=path) from error
    if name != network(of):
        whose = f"is of {name}" if name else "doesn't say which network it is of"
        raise UsageError(
            f"the baseline {path} {whose}, and {of.path} is of {network(of)}: give a baseline of the same network",
            code="other-network",
            option="baseline",
            path=path,
            name=name,
        )
    return found


def _bench(path: Path) -> tuple[str, Baseline]:
    measured = Bench.load(path)
    compressed = [row for row in measured.rows if row.role == COMPRESSED]
    return measured.network, Baseline(
        {row.target: row.artifact.bytes for row in compressed},
        costs(measured.rows),
        accuracies(measured.rows),
        {row.target: row.artifact.download_bytes for row in compressed},
    )


def _checkpoint(path: Path) -> tuple[str, Baseline]:
    opened = Checkpoint.load(path)
    exported = manifests(opened.exports)
    cost: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    if opened.bench_path.exists():
        measured = Bench.load(opened.bench_path)
        current = {manifest.target for _, manifest in exported if measured.describes(manifest)}
        rows = [row for row in measured.rows if row.target in current]
        cost, accuracy = costs(rows), accuracies(rows)
    paths = {manifest.target: folder / manifest.file.name for folder, manifest in exported}
    sizes = {target: raw_bytes(path) for target, path in paths.items()}
    download = {manifest.target: manifest.fetched[0] for _, manifest in exported}
    return network(opened), Baseline(sizes, cost, accuracy, download, paths)


def read_baseline_file(path: Path, of: Path) -> Baseline | None:
    """The figures of an earlier version of a model file: the file at `path`, or the one in that folder that has its
    path or its name. Where the folder has no such file, of those in it that are gone, the one with the same inputs and
    outputs: the file was renamed. None where there is none: it is new.

    Raises UsageError where there is nothing at `path`, or it is of another kind; DwindleError where it can't be read.
    """
    before = path
    if path.is_dir() and path.suffix.lower() != of.suffix.lower():
        within = of if not of.is_absolute() and ".." not in of.parts else of.name
        found = next((one for one in (path / within, path / of.name) if one.exists()), None) or _renamed(path, of)
        if found is None:
            return None
        before = found
    if not before.exists():
        raise UsageError(f"there is no baseline at {before}", code="missing", option="baseline", path=before)
    if before.suffix.lower() != of.suffix.lower():
        message = f"the baseline {before} is no {of.suffix} file as {of} is: give an earlier version of that file"
        raise UsageError(message, code="other-network", option="baseline", path=before)
    return Baseline({str(of): contents(before).bytes}, {}, paths={str(of): before})


def _renamed(folder: Path, of: Path) -> Path | None:
    """The file that a model file was called before: of the baseline's files that are gone, the one with the same
    inputs and outputs; of several, the nearest in size."""
    gone = [
        file
        for file in sorted(folder.rglob(f"*{of.suffix}"))
        if not (file.relative_to(folder).exists() or (of.parent / file.name).exists())
    ]
    now, same = contents(of), []
    for file in gone:
        with suppress(DwindleError):  # what can't be read is no earlier version
            if not changes(found := contents(file), now):
                same.append((abs(found.bytes - now.bytes), file))
    return min(same)[1] if same else None


def accuracies(rows: Iterable[Row]) -> dict[str, float]:
    """The accuracy of each target's compressed file in the worst of its runtimes, of those that measured it."""
    found: dict[str, float] = {}
    for row in rows:
        if row.role == COMPRESSED and row.accuracy:
            found[row.target] = min(found.get(row.target, row.accuracy.value), row.accuracy.value)
    return found


def costs(rows: Iterable[Row]) -> dict[str, float]:
    """ARM64 instructions that one inference of each target's compressed file executes, where they were counted.

    Of several counts of one file, the largest one is taken.
    """
    found: dict[str, float] = {}
    for row in rows:
        if row.role == COMPRESSED and row.cost:
            found[row.target] = max(found.get(row.target, 0.0), float(row.cost.instructions["all"]))
    return found
