"""Judges a model file, or the exports of a checkpoint, against limits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.bench.baseline import Baseline, read_baseline, read_baseline_file
from dwindle.bench.devices.registry import reach
from dwindle.bench.figures import Files, baseline_figures, figures, kept_figures
from dwindle.bench.files.contents import Contents, contents, is_model_file
from dwindle.bench.history import LEAST, Entry, usual
from dwindle.bench.limits import DIFFERENCE, KINDS, Limits, LimitsFile, holds
from dwindle.bench.result import Bench
from dwindle.bench.verdict import Check, Verdict
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.manifest import Manifest, manifests

if TYPE_CHECKING:
    from dwindle.bench.outputs import Expected
    from dwindle.bench.prices.profile import Profile

TARGETS = "dwindle.targets"
"""Export's entry-point group, named here because the stages don't import each other."""
AGAINST_BASELINE = ("max_growth", "max_signature_changes")
"""The limits that compare with an earlier version."""
FROM_HISTORY = ("max_growth", "max_deviations")
"""The limits that compare with earlier runs, once a history has enough of them."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every file and checkpoint of one call of the gate."""

    limits: LimitsFile
    flags: Limits
    """The limits that were given as arguments; they win over those of the file."""
    baseline: Path | None
    targets: tuple[str, ...] | None
    """Whose files of a checkpoint; None for those that have limits."""
    entries: Sequence[Entry] | None
    """The history that growth is counted from; None where there is a baseline, or no history was given."""
    why: bool
    download: bool
    """Whether download sizes are among the figures."""
    expected: Expected | None = None
    """What outputs are held against; None where no reference file was given."""

    @property
    def unsaid(self) -> Limits:
        """The limits that hold where a file has no other of their kind."""
        return {} if self.expected is None else {"max_difference": DIFFERENCE}

    @property
    def reads_anyway(self) -> bool:
        """Whether there is something to do without a limit: contents to show, or figures for a history."""
        return self.why or self.entries is not None


def of_file(path: Path, asked: Asked) -> Verdict:
    """The verdict on a model file."""
    name = str(path)
    limits: Limits = {**asked.unsaid, **asked.limits.of(path).shared, **asked.flags}
    before = None
    notes: list[str] = []
    if asked.baseline is not None:
        before = read_baseline_file(asked.baseline, path)
        if before:
            limits = {"max_signature_changes": 0.0, **limits}
            notes = _renamed(path, asked.baseline, before.paths[name])
    if not asked.reads_anyway:
        _require_limits(limits)
    if asked.entries is not None:
        before = usual(asked.entries, name, name)
        limits, notes = _with_enough(limits, before, name)
    elif asked.baseline is not None and before is None:
        limits = {kind: value for kind, value in limits.items() if kind not in AGAINST_BASELINE}
        notes = [f"{name} is new, as {asked.baseline} has no such file: its growth is not checked"]
    files = Files(name, path, None, None, before, expected=asked.expected)
    return Verdict(
        tuple(_checks(files, limits)),
        tuple(notes),
        {name: files.contents},
        _earlier([files]) if asked.why else {},
        {name: kept_figures(files, download=asked.download)},
        {name: baseline_figures(files, download=asked.download)},
        {name: path},
    )


def of_checkpoint(opened: Checkpoint, asked: Asked) -> Verdict:
    """The verdict on a checkpoint's exports."""
    written = asked.limits.of(opened.path)
    devices, profiles = _devices(written), _profiles(written)
    exported = {
        manifest.target: (folder / manifest.file.name, manifest) for folder, manifest in manifests(opened.exports)
    }
    names = asked.targets if asked.targets is not None else _limited_targets(opened, written, asked)
    _require_known([*names, *written.targets], exported)
    wanted: dict[str, Limits] = {
        name: {**asked.unsaid, **written.shared, **written.targets.get(name, {}), **asked.flags} for name in names
    }
    if not asked.reads_anyway:
        _require_limits(any((*wanted.values(), *devices.values(), *profiles)))
    before = read_baseline(asked.baseline, opened) if asked.baseline is not None else None
    measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None

    rows: list[Check] = []
    notes = [note for name in wanted if name in exported for note in _parity_notes(exported[name][1])]
    shipped = []
    for name, limits in wanted.items():
        path, manifest = exported.get(name, (None, None))
        files = Files(name, path, manifest, measured, before, expected=asked.expected)
        if asked.entries is not None:
            files = replace(files, baseline=usual(asked.entries, f"{opened.path} as {name}", name))
            limits, said = _with_enough(limits, files.baseline, name)
            notes += said
        shipped.append(files)
        rows += _checks(files, limits)
        for device, limited in devices.items():
            rows += _checks(replace(files, device=device), limited)

    for profile, limited in profiles:
        # A profile is of one target's files.
        for name in asked.targets if asked.targets is not None else [profile[1].target]:
            path, manifest = exported.get(name, (None, None))
            rows += _checks(Files(name, path, manifest, measured, None, profile=profile), limited)

    readable = [files for files in shipped if asked.why and files.path and is_model_file(files.path)]
    inside = {files.target: files.contents for files in readable}
    named = {f"{opened.path} as {files.target}": files for files in shipped}
    kept = {name: kept_figures(files, download=asked.download) for name, files in named.items() if files.path}
    previous = {name: baseline_figures(named[name], download=asked.download) for name in kept}
    subjects = dict.fromkeys(kept, opened.path)
    return Verdict(tuple(rows), tuple(notes), inside, _earlier(readable), kept, previous, subjects)


def _devices(written: LimitsFile) -> dict[str, Limits]:
    """The limits on each device, by the name that figures have it; raises UsageError for one that takes no times."""
    found = {}
    for name, limits in written.devices.items():
        device = reach(name)
        if not device.times:
            message = f"{written.path}: {name} counts instructions and no time: write max_cost in [gate] instead"
            raise UsageError(message, code="no-such-limit", option="limits", path=written.path, name=name)
        found[device.url] = limits
    return found


def _profiles(written: LimitsFile) -> list[tuple[tuple[str, Profile], Limits]]:
    """Each profile with how the file of limits calls it, and the limits on what it predicts.

    Raises UsageError for one that can't be read.
    """
    if not written.profiles or written.path is None:
        return []
    from dwindle.bench.prices.predicting import found

    return [((name, found(name, written.path.parent)), limits) for name, limits in written.profiles.items()]


def _limited_targets(opened: Checkpoint, written: LimitsFile, asked: Asked) -> tuple[str, ...]:
    """The targets that have limits of their own and, where anything is asked of no particular target, the one that
    the checkpoint was compressed for."""
    of_no_target = asked.flags or written.shared or asked.unsaid
    left_to_default = (written.devices or asked.reads_anyway) and not written.targets
    default = [str(opened.origin.get("target", "onnx"))] if of_no_target or left_to_default else []
    return (*default, *written.targets)


def _parity_notes(manifest: Manifest) -> list[str]:
    """What should be known of how a file's outputs were compared with its network's."""
    name, parity = manifest.target, manifest.parity
    unproven = [f"{name} is unproven: {parity.not_run}"] if parity.not_run else []
    return [*unproven, *(f"{name}: {doubt}" for doubt in parity.doubts)]


def _with_enough(limits: Limits, before: Baseline | None, subject: str) -> tuple[Limits, list[str]]:
    """The limits without growth while a history has too few runs to grow from, and a note on it."""
    if before or not {*FROM_HISTORY} & {*limits}:
        return limits, []
    left = {name: value for name, value in limits.items() if name not in FROM_HISTORY}
    return left, [f"growth of {subject} is not checked: its history has fewer than {LEAST} runs that passed"]


def _renamed(path: Path, given: Path, before: Path) -> list[str]:
    """A note on a baseline that has another name than the file, where nobody named it."""
    if before == given or before.name == path.name:
        return []
    return [f"{path} is taken for {before} under a new name: that file is gone, and had the same inputs and outputs"]


def _earlier(all_files: Sequence[Files]) -> dict[str, Contents]:
    """What was in the baseline's files, by the names of those that took their place."""
    known = {files.target: files.baseline.paths for files in all_files if files.baseline}
    return {name: contents(paths[name]) for name, paths in known.items() if name in paths}


def _checks(files: Files, limits: Limits) -> list[Check]:
    """The outcome of each limit on one file."""
    rows = []
    for limit, allowed in limits.items():
        for name, (measured, reason) in figures(limit, files):
            passed = measured is not None and holds(name, measured, allowed)
            where = files.profile[0] if files.profile else files.device
            rows.append(Check(name, files.target, allowed, measured, passed, reason, where))
    return rows


def _require_limits(limits: object) -> None:
    if not limits:
        listed = ", ".join(f"`{name}`" for name in KINDS)
        raise UsageError(f"there is nothing to check: give one or more of {listed}, or `limits`", code="no-limits")


def _require_known(names: list[str], exported: Collection[str]) -> None:
    known = {*registry.names(TARGETS), *exported}
    for name in names:
        if name not in known:
            message = registry.unknown("target", name, list(known))
            raise UsageError(message, code="unknown-name", option="target", name=name)
