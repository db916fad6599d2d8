"""What a target's file comes to, limit by limit: the figure and what it consists of, or why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from dwindle.bench.baseline import Baseline, costs
from dwindle.bench.result import COMPRESSED, DENSE, HOST, Bench, Row
from dwindle.manifest import Manifest

Figure = tuple[float | None, str | None]
"""What was measured, and what it consists of; or None and why it wasn't."""


@dataclass(frozen=True)
class Files:
    """One target's files, and all that is known of them."""

    target: str
    manifest: Manifest | None
    bench: Bench | None
    baseline: Baseline | None
    device: str | None = None
    """Whose figures alone count, where it is not everyone's: see `dwindle.bench.devices.device`."""

    @property
    def unmeasured(self) -> str | None:
        """Why bench has nothing to say of these files, if it hasn't."""
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

    def rows(self, role: str) -> tuple[Row, ...]:
        rows = self.bench.find(self.target, role) if self.bench else ()
        return tuple(row for row in rows if self.device is None or (row.runtime.device or HOST) == self.device)


def figures(limit: str, files: Files) -> list[tuple[str, Figure]]:
    """What a limit of `dwindle.bench.limits.KINDS` applies to, each by its name."""
    if limit != "max_growth":
        return [(limit, _FIGURES[limit](files))]
    grown = [("max_growth.size", _size_growth(files))]
    if files.baseline and files.target in files.baseline.cost:
        grown.append(("max_growth.cost", _cost_growth(files)))
    return grown


def _size(files: Files) -> Figure:
    return (files.manifest.file.bytes, None) if files.manifest else (None, files.unmeasured)


def _download(files: Files) -> Figure:
    if not files.manifest:
        return None, files.unmeasured
    size, name = files.manifest.fetched
    return size, f"as {name}, which the app unpacks" if name else None


def _drop(files: Files) -> Figure:
    dense = {row.runtime.place: row for row in files.rows(DENSE)}

    def of(row: Row) -> Figure:
        baseline = dense[row.runtime.place]
        if not (row.accuracy and baseline.accuracy):
            missing = baseline if row.accuracy else row
            return None, missing.reasons.get("accuracy", "bench measured no accuracy")
        before, after = baseline.accuracy.value, row.accuracy.value
        return before - after, f"{after:.2f} against {before:.2f} in {row.runtime.place}"

    return _worst(files, of)


def _accuracy(files: Files) -> Figure:
    def of(row: Row) -> Figure:
        if not row.accuracy:
            return None, row.reasons.get("accuracy", "bench measured no accuracy")
        return row.accuracy.value, f"{row.accuracy.n} samples in {row.runtime.place}"

    return _worst(files, of, least=True)


def _ratio(files: Files) -> Figure:
    """The upper end of the interval, unless one of the two files met noise in any runtime."""
    if why := _noise(files, DENSE, COMPRESSED):
        return None, why

    def of(row: Row) -> Figure:
        if not row.compare:
            return None, row.reasons.get("compare", "bench measured no latency")
        return row.compare.ci95[1], f"{row.compare.ratio:.3f}, at most this by its 95% interval, in {row.runtime.place}"

    return _worst(files, of)


def _latency(files: Files) -> Figure:
    """The upper end of the interval of one inference's time, unless it met noise."""
    if why := _noise(files, COMPRESSED):
        return None, why

    def of(row: Row) -> Figure:
        if not (row.latency and row.latency.ci95 and row.latency.typical is not None):
            return None, row.reasons.get("latency", "bench measured no latency: run `dwindle bench` again")
        shown = f"{row.latency.typical:.3f} ms, at most this by its 95% interval, in {row.runtime.place}"
        return row.latency.ci95[1], shown

    return _worst(files, of)


def _noise(files: Files, *roles: str) -> str | None:
    """Which of the files' runs can't be believed, and why; None where all can."""
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


def _worst(files: Files, of: Callable[[Row], Figure], *, least: bool = False) -> Figure:
    """The worst figure among the runtimes that have one."""
    if files.unmeasured:
        return None, files.unmeasured
    found = [of(row) for row in files.rows(COMPRESSED)]
    known = [(value, reason) for value, reason in found if value is not None]
    if not known:
        return None, "; ".join(dict.fromkeys(reason for _, reason in found if reason))
    return (min if least else max)(known, key=lambda figure: figure[0])


_FIGURES: dict[str, Callable[[Files], Figure]] = {
    "max_size": _size,
    "max_download": _download,
    "max_drop": _drop,
    "min_accuracy": _accuracy,
    "max_ratio": _ratio,
    "max_latency": _latency,
    "max_cost": _cost,
}
