"""The gate: limits on what ships, each held, missed, or unmeasured, which is never a pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dwindle import registry
from dwindle.bench.result import COMPRESSED, DENSE, Bench
from dwindle.checkpoint import Checkpoint
from dwindle.errors import BudgetMissed, RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest, manifests

TARGETS = "dwindle.targets"
"""Export's entry-point group, named here because the stages don't import each other."""


@dataclass(frozen=True)
class Limit:
    """One limit on one target's file."""

    name: str
    """`max_size` (bytes) or `max_drop` (points)."""
    target: str
    limit: float
    measured: float | None
    passed: bool
    reason: str | None
    """Why there is no figure, or what it consists of."""


@dataclass(frozen=True)
class Verdict:
    rows: tuple[Limit, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def unmeasured(self) -> tuple[Limit, ...]:
        return tuple(row for row in self.rows if row.measured is None)

    @property
    def exit_code(self) -> int:
        """0 where every limit holds, 5 where a figure is absent, 3 where one is missed."""
        if self.unmeasured:
            return RuntimeUnavailable.exit_code
        return 0 if self.passed else BudgetMissed.exit_code


def gate(
    checkpoint: Checkpoint | Path | str,
    *,
    max_size: int | None = None,
    max_drop: float | None = None,
    target: str | None = None,
) -> Verdict:
    """Checks exported files against limits.

    Args:
        max_size: installed bytes that the compressed file may have.
        max_drop: points of the task's metric on the test split that the compressed file may lose against
            the dense file in the same runtime, both as bench measured them; the worst of its runtimes.
        target: whose file, several separated by commas; by default what the checkpoint was compressed for.

    Raises UsageError without a limit or for an unknown target, CheckpointError for damaged files.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    if max_size is None and max_drop is None:
        raise UsageError("nothing to check: give --max-size, --max-drop or both")
    if max_size is not None and max_size < 1:
        raise UsageError(f"--max-size {max_size} is not a size: give bytes, 1 or more")
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise UsageError(f"--max-drop {max_drop} is not a drop: give points, 0 or more")
    exported = {manifest.target: manifest for _, manifest in manifests(opened.exports)}
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    rows: list[Limit] = []
    for name in _targets(target or str(opened.origin.get("target", "onnx")), exported):
        manifest = exported.get(name)
        if max_size is not None:
            rows.append(_size(name, manifest, max_size))
        if max_drop is not None:
            rows.append(_drop(name, manifest, measured, max_drop))
    return Verdict(tuple(rows))


def _targets(text: str, exported: dict[str, Manifest]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    known = {*registry.names(TARGETS), *exported}
    for name in names:
        if name not in known:
            raise UsageError(registry.unknown("target", name, list(known)))
    return names


def _size(target: str, manifest: Manifest | None, limit: int) -> Limit:
    if manifest is None:
        return Limit("max_size", target, limit, None, False, _not_exported(target))
    return Limit("max_size", target, limit, manifest.file.bytes, manifest.file.bytes <= limit, None)


def _drop(target: str, manifest: Manifest | None, measured: Bench | None, limit: float) -> Limit:
    def unmeasured(reason: str) -> Limit:
        return Limit("max_drop", target, limit, None, False, reason)

    if manifest is None:
        return unmeasured(_not_exported(target))
    if measured is None:
        return unmeasured("nothing is measured yet: run `dwindle bench`")
    if not measured.describes(manifest):
        return unmeasured("bench.json is about other files than the exported ones: run `dwindle bench` again")
    dense = {row.runtime.name: row for row in measured.find(target, DENSE)}
    drops, reasons = [], []
    for row in measured.find(target, COMPRESSED):
        baseline = dense[row.runtime.name]
        if row.accuracy and baseline.accuracy:
            before, after = baseline.accuracy.value, row.accuracy.value
            drops.append((before - after, f"{after:.2f} against {before:.2f} in {row.runtime.name}"))
        else:
            missing = baseline if row.accuracy else row
            reasons.append(missing.reasons.get("accuracy", "bench measured no accuracy"))
    if not drops:
        return unmeasured("; ".join(reasons))
    drop, reason = max(drops)
    return Limit("max_drop", target, limit, drop, drop <= limit + 1e-9, reason)  # 97.3 - 96.3 is not 1.0


def _not_exported(target: str) -> str:
    return f"there is no {target} file: run `dwindle export --target {target}`"
