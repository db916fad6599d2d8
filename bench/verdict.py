"""The gate: each limit on what ships holds, is missed, or has no figure, which is never a pass."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from dwindle import registry
from dwindle.bench.baseline import read_baseline
from dwindle.bench.devices.registry import reach
from dwindle.bench.figures import Figure, Files, figures
from dwindle.bench.limits import KINDS, LimitsFile, Quantity, quantity, read_limits
from dwindle.bench.result import Bench
from dwindle.checkpoint import Checkpoint
from dwindle.errors import BudgetMissed, RuntimeUnavailable, UsageError
from dwindle.manifest import manifests
from dwindle.quantities import within

TARGETS = "dwindle.targets"
"""Export's entry-point group, named here because the stages don't import each other."""


@dataclass(frozen=True)
class Check:
    """The outcome of one limit on one target's file."""

    name: str
    """The limit's name in `dwindle.bench.limits`; growth is checked as `max_growth.size` and `max_growth.cost`."""
    target: str
    limit: float
    measured: float | None
    passed: bool
    reason: str | None
    """What the figure consists of; where `measured` is None, why there is no figure."""
    device: str | None = None
    """The device that the limit is about; None for a limit of no particular device."""

    @property
    def subject(self) -> str:
        """What the limit is about, such as `onnx` or `onnx on browser`."""
        return f"{self.target} on {self.device}" if self.device else self.target


@dataclass(frozen=True)
class Verdict:
    """The outcome of every limit that was checked."""

    rows: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What holds no limit and should be known: files whose outputs were never compared with their network's."""

    @property
    def passed(self) -> bool:
        """Whether every limit holds; false where a figure is missing."""
        return all(row.passed for row in self.rows)

    @property
    def unmeasured(self) -> tuple[Check, ...]:
        """The limits that have no figure."""
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
    max_size: Quantity | None = None,
    max_download: Quantity | None = None,
    max_drop: Quantity | None = None,
    min_accuracy: Quantity | None = None,
    max_cost: Quantity | None = None,
    max_ratio: Quantity | None = None,
    max_growth: Quantity | None = None,
    limits: Path | str | None = None,
    baseline: Path | str | None = None,
    target: str | None = None,
) -> Verdict:
    """Checks exported files against limits.

        >>> gate("net.dwindle", max_size="25KB", max_drop=1.0).exit_code
        0

    Sizes are taken from the files on the disk, which have to be those that their manifest describes. Accuracy, latency
    and cost are bench's, in the worst of the runtimes; where one of them tried and failed, there is no figure.

    Args:
        max_size: installed bytes that the compressed file may have.
        max_download: bytes that a device downloads: the file deflated, or the `.zst` beside it where that is smaller.
        max_drop: points of the task's metric on the test split that it may lose against the dense file in the
            same runtime.
        min_accuracy: points of the metric that it must reach.
        max_cost: ARM64 instructions that one inference may execute.
        max_ratio: its time over the dense file's; the upper end of the 95% interval counts, and a noisy run
            measures nothing.
        max_growth: share by which its installed size, and its cost where both have one, may exceed the baseline's.
        limits: a TOML file with these in its table `[gate]`, or `[gate.TARGET]` for one target. What is given
            as an argument comes first. `[gate.device.NAME]` has limits on what ran on one device (`host` is this
            machine): max_ratio, max_drop, min_accuracy, and max_latency, milliseconds of one inference, of which the
            upper end of the 95% interval counts, and a noisy run measures nothing.
        baseline: the bench.json or the checkpoint that growth is counted from.
        target: whose files, several separated by commas; by default those that have a table of their own in
            the file of limits and, for limits of no particular target, the one it was compressed for.

    Raises UsageError without a limit, for an unknown target or limit, and for a baseline of another network;
    CheckpointError for files or documents that are damaged, or were altered since they were written.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    given = {
        "max_size": max_size,
        "max_download": max_download,
        "max_drop": max_drop,
        "min_accuracy": min_accuracy,
        "max_cost": max_cost,
        "max_ratio": max_ratio,
        "max_growth": max_growth,
    }
    flags = {name: quantity(name, value) for name, value in given.items() if value is not None}
    written = read_limits(Path(limits)) if limits is not None else LimitsFile({}, {}, {})
    shared, own = written.shared, written.targets
    devices = {}
    for name, its in written.devices.items():
        limited_on = reach(name)
        if not limited_on.times:
            message = f"{limits}: {name} counts instructions and no time: write max_cost in [gate] instead"
            raise UsageError(message, code="no-such-limit", option="limits", path=limits, name=name)
        devices[limited_on.url] = its
    exported = {manifest.target: (folder, manifest) for folder, manifest in manifests(opened.exports)}
    if target is None:
        default = str(opened.origin.get("target", "onnx"))
        names = [*([default] if flags or shared or (devices and not own) else []), *own]
    else:
        names = [name.strip() for name in target.split(",")]
    _require_known([*names, *own], exported)
    wanted = {name: {**shared, **own.get(name, {}), **flags} for name in names}
    if not any((*wanted.values(), *devices.values())):
        listed = ", ".join(f"`{name}`" for name in KINDS)
        raise UsageError(f"there is nothing to check: give one or more of {listed}, or `limits`", code="no-limits")
    before = read_baseline(Path(baseline), opened) if baseline is not None else None
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    rows: list[Check] = []
    for name, its in wanted.items():
        folder, manifest = exported.get(name, (None, None))
        files = Files(name, folder, manifest, measured, before)
        rows += [_check(part, files, its[limit], figure) for limit in its for part, figure in figures(limit, files)]
        for device, limited in devices.items():
            there = replace(files, device=device)
            found = [(limit, part, figure) for limit in limited for part, figure in figures(limit, there)]
            rows += [_check(part, there, limited[limit], figure) for limit, part, figure in found]
    parities = {name: exported[name][1].parity for name in wanted if name in exported}
    unproven = [f"{name} is unproven: {parity.not_run}" for name, parity in parities.items() if parity.not_run]
    widened = [f"{name}: {parity.widened}" for name, parity in parities.items() if parity.widened]
    return Verdict(tuple(rows), (*unproven, *widened))


def _check(name: str, files: Files, limit: float, figure: Figure) -> Check:
    measured, reason = figure
    if measured is None:
        holds = False
    else:
        holds = within(limit, measured) if name.startswith("min_") else within(measured, limit)
    return Check(name, files.target, limit, measured, holds, reason, files.device)


def _require_known(names: list[str], exported: Collection[str]) -> None:
    known = {*registry.names(TARGETS), *exported}
    for name in names:
        if name not in known:
            message = registry.unknown("target", name, list(known))
            raise UsageError(message, code="unknown-name", option="target", name=name)
