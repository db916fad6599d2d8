"""What the files weighed and cost before: another branch's bench.json, or its whole checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dwindle.bench.result import COMPRESSED, Bench, Row
from dwindle.checkpoint import Checkpoint
from dwindle.errors import CheckpointError, UsageError
from dwindle.manifest import manifests


@dataclass(frozen=True)
class Baseline:
    """The compressed files' figures, by target."""

    bytes: dict[str, int]
    """Installed."""
    cost: dict[str, float]
    """ARM64 instructions of one inference, where they were counted."""


def network(checkpoint: Checkpoint) -> str:
    """Which network a checkpoint is of, whatever it was compressed to: `zoo:resnet8 on digits`."""
    model, task = checkpoint.origin.get("model"), checkpoint.origin.get("task")
    spec = model.get("spec") if isinstance(model, dict) else model
    data = (task.get("data") or task.get("task")) if isinstance(task, dict) else task
    return f"{spec} on {data}"


def read_baseline(path: Path, of: Checkpoint) -> Baseline:
    """The figures at `path` (bench.json or a checkpoint), to hold those of `of` against.

    Raises UsageError where there are none to be read, or they are another network's.
    """
    if not path.exists():
        raise UsageError(f"there is no baseline at {path}")
    try:
        name, found = _checkpoint(path) if path.is_dir() else _bench(path)
    except CheckpointError as error:
        raise UsageError(f"the baseline can't be used: {error}") from error
    if name != network(of):
        whose = f"of {name}" if name else "of nobody knows which network"
        raise UsageError(
            f"the baseline {path} is {whose}, and {of.path} of {network(of)}: give one of the same network"
        )
    return found


def _bench(path: Path) -> tuple[str, Baseline]:
    measured = Bench.load(path)
    compressed = [row for row in measured.rows if row.role == COMPRESSED]
    return measured.network, Baseline({row.target: row.artifact.bytes for row in compressed}, costs(measured.rows))


def _checkpoint(path: Path) -> tuple[str, Baseline]:
    opened = Checkpoint.load(path)
    exported = [manifest for _, manifest in manifests(opened.exports)]
    cost: dict[str, float] = {}
    if opened.bench_path.exists():
        measured = Bench.load(opened.bench_path)
        current = {manifest.target for manifest in exported if measured.describes(manifest)}
        cost = {target: count for target, count in costs(measured.rows).items() if target in current}
    return network(opened), Baseline({manifest.target: manifest.file.bytes for manifest in exported}, cost)


def costs(rows: Iterable[Row]) -> dict[str, float]:
    """ARM64 instructions that one inference of each target's compressed file executes, where they were counted."""
    found: dict[str, float] = {}
    for row in rows:
        if row.role == COMPRESSED and row.cost:
            found[row.target] = max(found.get(row.target, 0.0), float(row.cost.instructions["all"]))
    return found
