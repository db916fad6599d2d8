"""Each limit's figure of a target's file, with what it consists of, or the reason why there is none.

Sizes are taken from the disk, whatever a manifest or a bench.json says.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.baseline import Baseline, costs
from dwindle.bench.files.contents import Contents, contents, is_model_file
from dwindle.bench.files.signature import changes
from dwindle.bench.result import COMPRESSED, DENSE, HOST, Bench, Row
from dwindle.errors import UsageError
from dwindle.files import deflated_bytes, raw_bytes
from dwindle.manifest import Manifest
from dwindle.metrics import ACCURACY
from dwindle.quantities import format_bytes, format_names

if TYPE_CHECKING:
    from dwindle.bench.outputs import Expected
    from dwindle.bench.prices.profile import Profile

Figure = tuple[float | None, str | None]
"""The figure and what it consists of; or None and the reason why it wasn't measured."""


@dataclass(frozen=True)
class Files:
    """What ships of one target, or a model file of any origin, and all that is known of it."""

    target: str
    """The target; of a model file its path."""
    path: Path | None
    """The file; None where nothing is exported."""
    manifest: Manifest | None
    """The manifest beside it that vouches for it; None where nothing is exported, and for a file of other origin."""
    bench: Bench | None
    baseline: Baseline | None
    device: str | None = None
    """The one device whose figures count, by the name that `dwindle bench --device` has for it; None: every device."""
    expected: Expected | None = None
    """The reference file, and the samples on which outputs are compared; None where there is none."""
    profile: tuple[str, Profile] | None = None
    """The profile by which times are predicted, and how it was given; None where no limit is on predicted times."""

    @property
    def unmeasured(self) -> str | None:
        """The reason why bench.json has no figures of these files; None where it has."""
        if self.path and self.manifest is None:
            return "it is taken from what `dwindle bench` measures of a checkpoint's exports"
        if self.manifest is None:
            return f"there is no {self.target} file: run `dwindle export --target {shlex.quote(self.target)}`"
        if self.bench is None:
            return "nothing is measured yet: run `dwindle bench`"
        if not self.bench.describes(self.manifest):
            return "bench.json is about other files than the exported ones: run `dwindle bench` again"
        if not self.rows(COMPRESSED):
            return (
                f"nothing was measured on {self.device}: run `dwindle bench --device {shlex.quote(str(self.device))}`"
            )
        return None

    @cached_property
    def contents(self) -> Contents:
        """What is in the file; raises DwindleError where it can't be read."""
        return contents(self.path or Path())

    def rows(self, role: str) -> tuple[Row, ...]:
        rows = self.bench.find(self.target, role) if self.bench else ()
        return tuple(row for row in rows if self.device is None or (row.runtime.device or HOST) == self.device)


def figures(limit: str, files: Files) -> list[tuple[str, Figure]]:
    """The figures that one limit of `dwindle.bench.limits.KINDS` applies to, each by its name.

    That is one, called as the limit is; of `max_growth` two, where the baseline has a cost to grow from.
    """
    if limit != "max_growth":
        return [(limit, _FIGURES[limit](files))]
    grown = [("max_growth.size", _size_growth(files))]
    if files.baseline and files.target in files.baseline.cost:
        grown.append(("max_growth.cost", _cost_growth(files)))
    return grown


def kept_figures(files: Files, *, download: bool) -> dict[str, float]:
    """What a history keeps of a file and a comment shows, as `Verdict.figures` has it. `download`: deflate the file,
    which takes seconds where it is large."""
    found = {"size": _size(files)[0], "cost": _cost(files)[0], "accuracy": _accuracy(files)[0]}
    if download:
        found["download"] = _download(files)[0]
    return {name: value for name, value in found.items() if value is not None}


def baseline_figures(files: Files, *, download: bool) -> dict[str, float]:
    """The same figures of the baseline of a file, of those that it has."""
    before, target = files.baseline, files.target
    if before is None:
        return {}
    found: dict[str, float] = {
        name: of[target]
        for name, of in (("size", before.bytes), ("cost", before.cost), ("accuracy", before.accuracy))
        if target in of
    }
    if download and target in before.download:
        found["download"] = before.download[target]
    elif download and target in before.paths:
        found |= kept_figures(Files(target, before.paths[target], None, None, None), download=True)
    return found


def _size(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    if files.manifest:
        return raw_bytes(files.path), None
    beside = files.contents.beside
    return files.contents.bytes, f"with {format_names(beside)} beside it" if beside else None


def _download(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    deflated = deflated_bytes(files.path)
    if not files.manifest:
        return deflated + sum(deflated_bytes(files.path.parent / name) for name in files.contents.beside), None
    packed = files.manifest.download
    if packed and (size := raw_bytes(files.path.parent / packed.name)) < deflated:
        return size, f"as {packed.name}, which the app unpacks"
    return deflated, None


def _zeros(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    if not is_model_file(files.path):
        return None, f"what is in {files.path.suffix} files isn't read here"
    found = files.contents
    if found.opaque:
        return None, f"{found.opaque} holds weights in a form that isn't read"
    if found.uncounted:
        return None, f"of {format_bytes(found.uncounted)} of weights in codes, nobody knows which code is zero"
    saved = found.packable
    return found.zeros, f"packed, they would save {format_bytes(saved)}" if saved else None


def _undelegated(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    if not is_model_file(files.path):
        return None, f"what is in {files.path.suffix} files isn't read here"
    outside = files.contents.undelegated
    if outside is None:
        return None, f"of {files.contents.format} files, what an accelerator takes is decided when they are loaded"
    listed = [f"{name} ×{count}" for name, count in sorted(outside.items(), key=lambda item: -item[1])]
    return float(sum(outside.values())), format_names(listed) if listed else None


def _signature_changes(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    if files.baseline is None:
        return None, "there is nothing to compare with: give --baseline"
    if not is_model_file(files.path):
        return None, f"what is in {files.path.suffix} files isn't read here"
    if (before := files.baseline.paths.get(files.target)) is None:
        return None, f"the baseline has no {files.target} file to read inputs and outputs from"
    changed = changes(contents(before), files.contents)
    return float(len(changed)), "; ".join(changed) or None


def _difference(files: Files) -> Figure:
    if files.path is None:
        return None, files.unmeasured
    if files.expected is None:
        return None, "there is nothing to compare outputs with: give --reference and --inputs"
    return files.expected.furthest(files.path)


def _drop(files: Files) -> Figure:
    dense = {row.runtime.place: row for row in files.rows(DENSE)}

    def of(row: Row) -> Figure:
        baseline = dense.get(row.runtime.place)
        if baseline is None:
            return None, f"the dense file was not measured in {row.runtime.place}: run `dwindle bench` again"
        if not (row.accuracy and baseline.accuracy):
            return None, _reason(baseline if row.accuracy else row, "accuracy")
        before, after = baseline.accuracy.value, row.accuracy.value
        return before - after, f"{_metric(row)}{after:.2f} against {before:.2f} in {row.runtime.place}"

    return _worst(files, "accuracy", of)


def _metric(row: Row) -> str:
    """The start of a figure's details, which says what was judged where that is no accuracy."""
    return "" if row.accuracy is None or row.accuracy.metric == ACCURACY else f"{row.accuracy.metric}, "


def _accuracy(files: Files) -> Figure:
    def of(row: Row) -> Figure:
        if not row.accuracy:
            return None, _reason(row, "accuracy")
        return row.accuracy.value, f"{_metric(row)}{row.accuracy.n} samples in {row.runtime.place}"

    return _worst(files, "accuracy", of, least=True)


def _ratio(files: Files) -> Figure:
    """The upper end of the ratio's interval; none where a run of one of the two files was noisy in any runtime."""
    if why := _noise(files, DENSE, COMPRESSED):
        return None, why

    def of(row: Row) -> Figure:
        if not row.compare:
            return None, _reason(row, "compare")
        return row.compare.ci95[1], f"{row.compare.ratio:.3f}, at most this by its 95% interval, in {row.runtime.place}"

    return _worst(files, "compare", of)


def _latency(files: Files) -> Figure:
    """The upper end of the interval of one inference's time in milliseconds; none where the run was noisy."""
    if why := _noise(files, COMPRESSED):
        return None, why

    def of(row: Row) -> Figure:
        if not (row.latency and row.latency.ci95 and row.latency.typical is not None):
            return None, _reason(row, "latency")
        shown = f"{row.latency.typical:.3f} ms, at most this by its 95% interval, in {row.runtime.place}"
        return row.latency.ci95[1], shown

    return _worst(files, "latency", of)


def _predicted_latency(files: Files) -> Figure:
    """Milliseconds of one inference as the profile has it, by the layers in the manifest: nothing is run for it."""
    if files.manifest is None or files.profile is None:
        return None, files.unmeasured
    from dwindle.bench.prices.exported import predict

    where, profile = files.profile
    try:
        found = predict(profile, where, files.manifest)
    except UsageError as error:
        return None, str(error)
    said = f"predicted, not measured: {found} on {profile.device}"
    return found.ms, f"{said}; {profile.source}" if profile.source else said


def _noise(files: Files, *roles: str) -> str | None:
    """The first noisy run of a file in one of these roles, with what was noisy; None where every run was quiet."""
    for row in (row for role in roles for row in files.rows(role)) if files.unmeasured is None else ():
        if row.noise and not row.noise.quiet:
            return f"the {row.role} file's run in {row.runtime.place} was noisy: {'; '.join(row.noise.reasons)}"
    return None


def _cost(files: Files) -> Figure:
    if files.unmeasured:
        return None, files.unmeasured
    reasons = [row.reasons["cost"] for row in files.rows(COMPRESSED) if "cost" in row.reasons]
    found = costs(files.rows(COMPRESSED)).get(files.target)
    return found, "; ".join(dict.fromkeys(reasons)) or "ARM64 instructions were not counted" if found is None else None


def _size_growth(files: Files) -> Figure:
    value, why = _size(files)
    return _growth(files, value, why, files.baseline.bytes if files.baseline else {}, "bytes")


def _cost_growth(files: Files) -> Figure:
    value, why = _cost(files)
    return _growth(files, value, why, files.baseline.cost if files.baseline else {}, "instructions")


def _deviations(files: Files) -> Figure:
    value, why = _size(files)
    if files.baseline is None or files.target not in files.baseline.deviation:
        return None, "there is no history to deviate from: give --history"
    if value is None:
        return None, why
    usual, deviation = files.baseline.bytes[files.target], files.baseline.deviation[files.target]
    return (value - usual) / deviation, f"{value:,.0f} bytes against {usual:,.0f}, which vary by {deviation:,.0f}"


def _growth(
    files: Files, value: float | None, why: str | None, before: dict[str, int] | dict[str, float], unit: str
) -> Figure:
    if files.baseline is None:
        return None, "there is nothing to grow from: give --baseline"
    if files.target not in before:
        return None, f"the baseline has no {files.target} file"
    if value is None:
        return None, why
    old = before[files.target]
    return value / old - 1, f"{value:,.0f} {unit} against {old:,.0f}"


def _reason(row: Row, name: str) -> str:
    """Why a row has no figure of that name."""
    return row.reasons.get(name, f"bench.json has no {name} of it: run `dwindle bench` again")


def _worst(files: Files, name: str, of: Callable[[Row], Figure], *, least: bool = False) -> Figure:
    """The worst figure among the runtimes in which it was tried: none where one of them failed.

    A runtime in which nobody tried to take the figure called `name` is passed over, unless there is no other.
    """
    if files.unmeasured:
        return None, files.unmeasured
    rows = files.rows(COMPRESSED)
    found = [of(row) for row in ([row for row in rows if name not in row.untried] or rows)]
    known = [(value, reason) for value, reason in found if value is not None]
    if len(known) < len(found):
        return None, "; ".join(dict.fromkeys(reason for value, reason in found if value is None and reason))
    return (min if least else max)(known, key=lambda figure: figure[0])


_FIGURES: dict[str, Callable[[Files], Figure]] = {
    "max_size": _size,
    "max_download": _download,
    "max_drop": _drop,
    "min_accuracy": _accuracy,
    "max_ratio": _ratio,
    "max_latency": _latency,
    "max_predicted_latency": _predicted_latency,
    "max_cost": _cost,
    "max_deviations": _deviations,
    "max_zeros": _zeros,
    "max_undelegated": _undelegated,
    "max_signature_changes": _signature_changes,
    "max_difference": _difference,
}
