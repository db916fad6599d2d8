"""The gate: each limit on what ships holds, is missed, or has no figure, which is never a pass."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dwindle import registry
from dwindle.bench.approvals import Approval, read_approvals
from dwindle.bench.baseline import Baseline, read_baseline, read_baseline_file
from dwindle.bench.devices.registry import reach
from dwindle.bench.figures import Figure, Files, figures, sizes_of
from dwindle.bench.files.contents import Contents, contents, is_model_file
from dwindle.bench.history import LEAST, Entry, read_history, usual
from dwindle.bench.limits import KINDS, Limits, LimitsFile, Quantity, holds, matching, quantity, read_limits
from dwindle.bench.result import Bench
from dwindle.checkpoint import Checkpoint
from dwindle.errors import BudgetMissed, RuntimeUnavailable, UsageError
from dwindle.manifest import manifests

TARGETS = "dwindle.targets"
"""Export's entry-point group, named here because the stages don't import each other."""


@dataclass(frozen=True)
class Check:
    """The outcome of one limit on one target's file."""

    name: str
    """The limit's name in `dwindle.bench.limits`; growth is checked as `max_growth.size` and `max_growth.cost`."""
    target: str
    """The target; of a model file its path."""
    limit: float
    measured: float | None
    passed: bool
    reason: str | None
    """What the figure consists of; where `measured` is None, why there is no figure."""
    device: str | None = None
    """The device that the limit is about; None for a limit of no particular device."""
    checkpoint: str | None = None
    """The path of the target's checkpoint, where several were checked at once."""
    allowed: str | None = None
    """Why it may go beyond its limit, where it does and the file of limits approves of that: it then passed."""

    @property
    def subject(self) -> str:
        """What the limit is about, such as `onnx`, `onnx on browser`, `net.onnx` or `net.dwindle as onnx`."""
        subject = f"{self.checkpoint} as {self.target}" if self.checkpoint else self.target
        return f"{subject} on {self.device}" if self.device else subject


@dataclass(frozen=True)
class Verdict:
    """The outcome of every limit that was checked."""

    rows: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What holds no limit and should be known: files whose outputs were never compared with their network's."""
    files: Mapping[str, Contents] = field(default_factory=dict)
    """What is in each model file, by its path, and where `why` was asked, in each export of a checkpoint."""
    before: Mapping[str, Contents] = field(default_factory=dict)
    """What was in the earlier version of each, by the same names, where `why` was asked."""
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of each model file, by its path, and each export checked, as `net.dwindle as onnx`: `size` in bytes, and `cost`
    in instructions where it was counted."""
    subjects: Mapping[str, Path] = field(default_factory=dict)
    """The model file or the checkpoint that figures are of, by the same names."""

    @property
    def passed(self) -> bool:
        """Whether every limit holds; false where a figure is missing."""
        return all(row.passed for row in self.rows)

    def named(self, checkpoint: str) -> Verdict:
        """The same, its rows and files said to be of that checkpoint."""
        rows = tuple(replace(row, checkpoint=checkpoint) for row in self.rows)
        files, before = (
            {f"{checkpoint} as {target}": found for target, found in each.items()} for each in (self.files, self.before)
        )
        return replace(self, rows=rows, files=files, before=before)

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


Subject = Checkpoint | Path | str
"""A checkpoint, opened or by its path, or the path of a model file, or a pattern of paths such as `models/*.onnx`."""


def gate(
    files: Subject | Sequence[Subject],
    *,
    max_size: Quantity | None = None,
    max_download: Quantity | None = None,
    max_drop: Quantity | None = None,
    min_accuracy: Quantity | None = None,
    max_cost: Quantity | None = None,
    max_ratio: Quantity | None = None,
    max_growth: Quantity | None = None,
    max_zeros: Quantity | None = None,
    max_undelegated: Quantity | None = None,
    max_signature_changes: Quantity | None = None,
    limits: Path | str | None = None,
    baseline: Path | str | None = None,
    target: str | None = None,
    history: Path | str | None = None,
    why: bool = False,
) -> Verdict:
    """Checks exported files, or model files of any origin, against limits.

        >>> gate("net.dwindle", max_size="25KB", max_drop=1.0).exit_code
        0
        >>> gate("app/models/*.tflite", max_size="5MB", baseline="main/models").exit_code
        0

    Sizes are taken from the files on the disk; those of a checkpoint have to be what their manifest describes.
    Accuracy, latency and cost are bench's, in the worst of the runtimes; where one of them tried and failed, there is
    no figure, and of a model file there is none. Nothing is run, and PyTorch isn't imported.

    Args:
        files: a checkpoint or a model file (.onnx, .tflite, .mlpackage, .mlmodel, .pte or .pt2), or several; by their
            paths or by patterns. None of them: those that `limits` names.
        max_size: installed bytes that the compressed file may have.
        max_download: bytes that a device downloads: the file deflated, or the `.zst` beside it where that is smaller.
        max_drop: points of the task's metric on the test split that it may lose against the dense file in the
            same runtime.
        min_accuracy: points of the metric that it must reach.
        max_cost: ARM64 instructions that one inference may execute.
        max_ratio: its time over the dense file's; the upper end of the 95% interval counts, and a noisy run
            measures nothing.
        max_growth: share by which its installed size, and its cost where both have one, may exceed the baseline's.
        max_zeros: share of its weights that may be zeros which take as many bytes as any other.
        max_undelegated: calls of operators in it that no delegate takes.
        max_signature_changes: inputs and outputs whose name, type or shape may differ from the baseline's. Where a
            model file has a baseline and nothing else is said, 0.
        limits: a TOML file with these in its table `[gate]`, or `[gate.TARGET]` for one target, or `[gate.file."NAME"]`
            for one model file or checkpoint, whose name or pattern begins at the folder of the TOML file. What is given
            as an argument comes first. `[gate.device.NAME]` has limits on what ran on one device (`host` is this
            machine): max_ratio, max_drop, min_accuracy, and max_latency, milliseconds of one inference, of which the
            upper end of the 95% interval counts, and a noisy run measures nothing.
        baseline: what growth is counted from: the bench.json or the checkpoint of a checkpoint; of a model file an
            earlier version, or a folder that has one of the same name.
        target: whose files, several separated by commas; by default those that have a table of their own in
            the file of limits and, for limits of no particular target, the one it was compressed for.
        history: a file that `dwindle.bench.history.append` adds to. Without a baseline, growth is counted from the
            median of its last runs that passed; while those are too few, growth is not checked, and a note says so.
        why: also read what is in the exports of a checkpoint, and in the baseline's files, for
            `dwindle.bench.files.spent`; no limit is needed then.

    Raises UsageError without a limit, for an unknown target or limit, for what is not there or of an unknown format,
    and for a baseline of another network; DwindleError (CheckpointError of a checkpoint) for files or documents that
    are damaged, or were altered since they were written.
    """
    given = {
        "max_size": max_size,
        "max_download": max_download,
        "max_drop": max_drop,
        "min_accuracy": min_accuracy,
        "max_cost": max_cost,
        "max_ratio": max_ratio,
        "max_growth": max_growth,
        "max_zeros": max_zeros,
        "max_undelegated": max_undelegated,
        "max_signature_changes": max_signature_changes,
    }
    flags = {name: quantity(name, value) for name, value in given.items() if value is not None}
    written = read_limits(Path(limits)) if limits is not None else LimitsFile({}, {}, {}, {})
    subjects = _subjects(files, written)
    several = len(subjects) > 1
    entries = None if history is None or baseline is not None else read_history(Path(history))
    verdicts = []
    for subject in subjects:
        if isinstance(subject, Checkpoint):
            own = written.of(subject.path)
            found = _of_checkpoint(subject, own, flags, baseline, target, limits, entries, why=why)
            verdicts.append(found.named(str(subject.path)) if several else found)
        else:
            verdicts.append(_of_file(subject, {**written.of(subject).shared, **flags}, baseline, entries, why=why))
    approvals = () if limits is None else read_approvals(Path(limits), written.allowed)
    rows, expired = _approved([row for each in verdicts for row in each.rows], approvals)
    return Verdict(
        rows,
        (*(note for each in verdicts for note in each.notes), *expired),
        {name: found for each in verdicts for name, found in each.files.items()},
        {name: found for each in verdicts for name, found in each.before.items()},
        {name: found for each in verdicts for name, found in each.figures.items()},
        {name: found for each in verdicts for name, found in each.subjects.items()},
    )


def _approved(rows: Sequence[Check], approvals: Sequence[Approval]) -> tuple[tuple[Check, ...], list[str]]:
    """The checks, those that are beyond their limit and approved of as passed; and a note on each approval that isn't
    needed any more, as its figures are within their limits again."""
    found: list[Check] = []
    checked: set[Approval] = set()
    needed: set[Approval] = set()
    for row in rows:
        able = [one for one in approvals if one.covers(row.name, (row.subject, row.target))]
        checked |= set(able)
        if row.passed or row.measured is None:
            found.append(row)
            continue
        needed |= set(able)
        allowing = next((one for one in able if one.allows(row.name, row.measured)), None)
        found.append(replace(row, passed=True, allowed=allowing.reason) if allowing else row)
    expired = [one for one in approvals if one in checked - needed]
    return tuple(found), [
        f"the approval of {one.figure} of {one.of or 'any file'} ({one.reason}) has expired, as the limit holds again: "
        "remove it from the limits"
        for one in expired
    ]


def _subjects(files: Subject | Sequence[Subject], written: LimitsFile) -> list[Checkpoint | Path]:
    """What is checked, each once; what a pattern stands for is sorted by name."""
    given = [files] if isinstance(files, Checkpoint | Path | str) else [*files] or [*written.files]
    if not given:
        raise UsageError("there is nothing to check: name a checkpoint or a model file", code="no-files")
    found: dict[Path, Checkpoint | Path] = {}
    for one in given:
        if isinstance(one, Checkpoint):
            found[one.path] = one
            continue
        for path in matching(Path(), str(one)) if glob.has_magic(str(one)) else [Path(one)]:
            found[path] = path if is_model_file(path) or path.is_file() else Checkpoint.load(path)
    return list(found.values())


def _of_file(
    path: Path, limits: Limits, baseline: Path | str | None, entries: Sequence[Entry] | None, *, why: bool
) -> Verdict:
    """The verdict on a model file."""
    before = read_baseline_file(Path(baseline), path) if baseline is not None else None
    if before:
        limits = {"max_signature_changes": 0.0, **limits}
    if not (why or entries is not None):
        _require_limits(limits)
    notes: list[str] = []
    if entries is not None:
        before = usual(entries, str(path), str(path))
        limits, notes = _with_enough(limits, before, str(path))
    files = Files(str(path), path, None, None, before)
    rows = [_check(part, files, limits[limit], figure) for limit in limits for part, figure in figures(limit, files)]
    name, found = files.target, files.contents
    earlier = _earlier([files]) if why else {}
    return Verdict(tuple(rows), tuple(notes), {name: found}, earlier, {name: {"size": found.bytes}}, {name: path})


def _with_enough(limits: Limits, before: Baseline | None, subject: str) -> tuple[Limits, list[str]]:
    """The limits without growth while a history has too few runs to grow from, and a note on it."""
    if before or "max_growth" not in limits:
        return limits, []
    left = {name: value for name, value in limits.items() if name != "max_growth"}
    return left, [f"growth of {subject} is not checked: its history has fewer than {LEAST} runs that passed"]


def _earlier(all_files: Sequence[Files]) -> dict[str, Contents]:
    """What was in the baseline's files, by the names of those that took their place."""
    known = {files.target: files.baseline.paths for files in all_files if files.baseline}
    return {name: contents(paths[name]) for name, paths in known.items() if name in paths}


def _of_checkpoint(
    opened: Checkpoint,
    written: LimitsFile,
    flags: Limits,
    baseline: Path | str | None,
    target: str | None,
    limits: Path | str | None,
    entries: Sequence[Entry] | None,
    *,
    why: bool,
) -> Verdict:
    """The verdict on a checkpoint's exports."""
    shared, own = written.shared, written.targets
    devices = {}
    for name, its in written.devices.items():
        limited_on = reach(name)
        if not limited_on.times:
            message = f"{limits}: {name} counts instructions and no time: write max_cost in [gate] instead"
            raise UsageError(message, code="no-such-limit", option="limits", path=limits, name=name)
        devices[limited_on.url] = its
    exported = {
        manifest.target: (folder / manifest.file.name, manifest) for folder, manifest in manifests(opened.exports)
    }
    if target is None:
        default = str(opened.origin.get("target", "onnx"))
        names = [
            *(
                [default]
                if flags or shared or (devices and not own) or ((why or entries is not None) and not own)
                else []
            ),
            *own,
        ]
    else:
        names = [name.strip() for name in target.split(",")]
    _require_known([*names, *own], exported)
    wanted = {name: {**shared, **own.get(name, {}), **flags} for name in names}
    if not (why or entries is not None):
        _require_limits(any((*wanted.values(), *devices.values())))
    before = read_baseline(Path(baseline), opened) if baseline is not None else None
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    rows: list[Check] = []
    shipped, notes = [], []
    for name, its in wanted.items():
        path, manifest = exported.get(name, (None, None))
        files = Files(name, path, manifest, measured, before)
        if entries is not None:
            files = replace(files, baseline=usual(entries, f"{opened.path} as {name}", name))
            its, said = _with_enough(its, files.baseline, name)
            notes += said
        shipped.append(files)
        rows += [_check(part, files, its[limit], figure) for limit in its for part, figure in figures(limit, files)]
        for device, limited in devices.items():
            there = replace(files, device=device)
            found = [(limit, part, figure) for limit in limited for part, figure in figures(limit, there)]
            rows += [_check(part, there, limited[limit], figure) for limit, part, figure in found]
    parities = {name: exported[name][1].parity for name in wanted if name in exported}
    unproven = [f"{name} is unproven: {parity.not_run}" for name, parity in parities.items() if parity.not_run]
    widened = [f"{name}: {parity.widened}" for name, parity in parities.items() if parity.widened]
    readable = [files for files in shipped if why and files.path and is_model_file(files.path)]
    inside = {files.target: files.contents for files in readable}
    sizes = {f"{opened.path} as {files.target}": known for files in shipped if (known := sizes_of(files))}
    earlier = _earlier(readable)
    notes = [*unproven, *widened, *notes]
    return Verdict(tuple(rows), tuple(notes), inside, earlier, sizes, dict.fromkeys(sizes, opened.path))


def _require_limits(limits: object) -> None:
    if not limits:
        listed = ", ".join(f"`{name}`" for name in KINDS)
        raise UsageError(f"there is nothing to check: give one or more of {listed}, or `limits`", code="no-limits")


def _check(name: str, files: Files, limit: float, figure: Figure) -> Check:
    measured, reason = figure
    passed = measured is not None and holds(name, measured, limit)
    return Check(name, files.target, limit, measured, passed, reason, files.device)


def _require_known(names: list[str], exported: Collection[str]) -> None:
    known = {*registry.names(TARGETS), *exported}
    for name in names:
        if name not in known:
            message = registry.unknown("target", name, list(known))
            raise UsageError(message, code="unknown-name", option="target", name=name)
