"""Limits on what ships, given as arguments or in the `[gate]` table of a TOML file.

[gate]                  # for every target that is checked
max_drop = 1.0

[gate.onnx]             # for one target; these win over those above
max_size = "100KB"

[gate.device.browser]   # for figures taken on one device, called as in `dwindle bench --device`
max_latency = 20        # milliseconds

[gate.on."phone.json"]  # for figures that a profile predicts: its file, from this file's folder on, or cortex-a76
max_predicted_latency = 8

[gate.file."*.onnx"]    # for model files and checkpoints, by names or patterns from this file's folder on
max_zeros = "5%"
"""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from dwindle import registry
from dwindle.errors import UsageError
from dwindle.files import read_toml
from dwindle.quantities import parse_bytes, parse_count, within

Quantity = int | float | str
Limits = Mapping[str, float]
"""The value of each limit by its name: bytes, points, instructions, a ratio or a share."""


def _size(value: Quantity) -> float:
    if isinstance(value, str):
        return parse_bytes(value)
    return _at_least(1)(value) if value == int(value) else math.nan


def _at_least(least: float) -> Callable[[Quantity], float]:
    return lambda value: number if (number := float(value)) >= least else math.nan


def _count(value: Quantity) -> float:
    number = parse_count(str(value))
    return _at_least(1)(value if number is None else number)


def _growth(value: Quantity) -> float:
    text = str(value).strip()
    if text.endswith("%"):
        return _at_least(0)(float(text[:-1]) / 100)
    return share if (share := _at_least(0)(text)) <= 1 else math.nan  # 2 was meant as 2%, and would let all pass


def _whole(value: Quantity) -> float:
    number = _at_least(0)(value)
    return number if number == int(number) else math.nan


@dataclass(frozen=True)
class Kind:
    """What is known of one limit."""

    parse: Callable[[Quantity], float]
    """From what is given to a number; NaN, or ValueError, where it is no value of this kind."""
    wanted: str
    """What a value is, as a message says it after "is not"."""
    metavar: str = ""
    help: str = ""
    """What it limits, as the help of `dwindle gate` says it."""


KINDS: dict[str, Kind] = {
    "max_size": Kind(
        _size,
        "a size: give installed bytes such as 500KB",
        "SIZE",
        "The most bytes that the compressed file may have when it is installed, such as 500KB.",
    ),
    "max_download": Kind(
        _size,
        "a size: give downloaded bytes such as 500KB",
        "SIZE",
        "The most bytes that a device may download: the file deflated, or the .zst beside it where that is smaller.",
    ),
    "max_drop": Kind(
        _at_least(0),
        "a drop: give points, 0 or more",
        "POINTS",
        "The most points of test accuracy that the file may lose against the dense file.",
    ),
    "min_accuracy": Kind(
        _at_least(0),
        "an accuracy: give points, such as 92.5",
        "POINTS",
        "The least test accuracy in points that the file must reach.",
    ),
    "max_cost": Kind(
        _count,
        "a cost: give ARM64 instructions per inference, such as 150M",
        "COUNT",
        "The most ARM64 instructions that one inference may execute, such as 150M.",
    ),
    "max_ratio": Kind(
        _at_least(0),
        "a ratio: give the time over the dense file's, such as 0.8",
        "RATIO",
        "The most that the time of an inference over the dense file's may be, by the upper end of its 95% interval.",
    ),
    "max_growth": Kind(
        _growth,
        "a growth: give a share such as 2%",
        "SHARE",
        "The share, such as 2%, by which size and cost may at most exceed those of `baseline`.",
    ),
    "max_deviations": Kind(
        _at_least(0),
        "a number of standard deviations: give one such as 3",
        "NUMBER",
        "The most standard deviations by which the size may exceed the median of the runs in `history`; the deviation "
        "counts as 0.1% of the median at least.",
    ),
    "max_zeros": Kind(
        _growth,
        "a share: give one such as 5%",
        "SHARE",
        "The share of the stored weights, such as 5%, that may be zeros which take as many bytes as any other weight.",
    ),
    "max_undelegated": Kind(
        _whole,
        "a number of operators: give a whole number, 0 or more",
        "COUNT",
        "The most calls of operators that no delegate of the file takes.",
    ),
    "max_signature_changes": Kind(
        _whole,
        "a number of inputs and outputs: give a whole number, 0 or more",
        "COUNT",
        "The most inputs and outputs whose name, type or shape may differ from those of `baseline`; 0 for a model file "
        "where nothing else is said.",
    ),
    "max_difference": Kind(
        _growth,
        "a share: give the largest difference over the largest output, such as 0.001 or 0.1%",
        "SHARE",
        "The most that an output may differ from that of `reference` on `inputs`, over the largest value of that "
        "output, such as 0.1%; 0.1% where `reference` is given and nothing else is said.",
    ),
}
"""The limits that hold for a file, by name."""
DIFFERENCE = 0.001
"""The max_difference from a reference file where nothing else is said."""
DEVICE_KINDS = {
    "max_latency": Kind(_at_least(0), "a latency: give milliseconds, such as 20"),
    **{name: KINDS[name] for name in ("max_ratio", "max_drop", "min_accuracy")},
}
"""As KINDS, of the limits on one device. Milliseconds on no particular device would say nothing."""
PROFILE_KINDS = {
    "max_predicted_latency": Kind(_at_least(0), "a latency: give milliseconds, such as 8"),
}
"""As KINDS, of the limits on what a profile predicts."""
ALL_KINDS = KINDS | DEVICE_KINDS | PROFILE_KINDS
_TABLES = {
    **dict.fromkeys(KINDS, "[gate] or [gate.TARGET]"),
    **dict.fromkeys(DEVICE_KINDS, "one device's table, [gate.device.NAME]"),
    **dict.fromkeys(PROFILE_KINDS, 'one profile\'s table, [gate.on."NAME"]'),
}
"""Where a limit belongs that stands in another table."""


def holds(name: str, measured: float, limit: float) -> bool:
    """Whether a figure keeps to the limit of that name: at least as much for `min_…`, else at most."""
    return within(limit, measured) if name.startswith("min_") else within(measured, limit)


def quantity(name: str, value: Quantity) -> float:
    """A limit's value as a number; raises UsageError where it isn't one of its kind."""
    kind = ALL_KINDS[name]
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = kind.parse(value)
        except (ValueError, OverflowError, UsageError):  # a number of more than 308 digits overflows
            number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"`{name}` {str(value)[:80]!r} is not {kind.wanted}", code="out-of-range", option=name)
    return number


@dataclass(frozen=True)
class LimitsFile:
    """The limits that a TOML file sets."""

    shared: Limits = field(default_factory=dict)
    """Those on every target that is checked."""
    targets: dict[str, Limits] = field(default_factory=dict)
    """Those on one target, by its name; they win over the shared ones."""
    devices: dict[str, Limits] = field(default_factory=dict)
    """Those on figures taken on one device, by its name."""
    profiles: dict[str, Limits] = field(default_factory=dict)
    """Those on what a profile predicts, by its name or its file's, which begins at the folder of `path`."""
    files: dict[Path, Limits] = field(default_factory=dict)
    """Those on one model file or checkpoint, by its path."""
    allowed: Any = ()
    """What goes beyond them and is meant, as the file has it; `dwindle.bench.approvals` reads it."""
    path: Path | None = None
    """The file; None where there is none, and nothing is set."""

    def of(self, path: Path) -> LimitsFile:
        """The limits with those on one model file or checkpoint among the shared ones."""
        own = (limits for file, limits in self.files.items() if file.resolve() == path.resolve())
        return replace(self, shared=reduce(lambda before, limits: {**before, **limits}, own, self.shared))


def read_limits(path: Path) -> LimitsFile:
    """Reads a file of limits.

    Raises UsageError where the file can't be read, has no table [gate], has a key that is no limit, or names a file
    that isn't there.
    """
    gate = read_toml(path).get("gate")
    if not isinstance(gate, dict):
        raise UsageError(f"{path} has no [gate] table", code="no-table", option="limits", path=path)
    allowed = gate.pop("allow", [])
    tables = {name: entry for name, entry in gate.items() if isinstance(entry, dict)}
    shared = {name: entry for name, entry in gate.items() if name not in tables}
    devices, profiles, patterns = (tables.pop(kind, {}) for kind in ("device", "on", "file"))
    for kind, what, group in (("device", "device", devices), ("on", "profile", profiles), ("file", "file", patterns)):
        for name, entry in group.items():
            if not isinstance(entry, dict):
                message = f'{path}, [gate.{kind}]: {name} belongs in one {what}\'s table, [gate.{kind}."NAME"]'
                raise UsageError(message, code="no-such-limit", option="limits", path=path, name=name)
    files: dict[Path, Limits] = {}
    for pattern, entry in patterns.items():
        limits = _table(path, f'gate.file."{pattern}"', entry, KINDS)
        for found in matching(path.parent, pattern, path):
            files[found] = {**files.get(found, {}), **limits}
    return LimitsFile(
        _table(path, "gate", shared, KINDS),
        {name: _table(path, f"gate.{name}", entry, KINDS) for name, entry in tables.items()},
        {name: _table(path, f"gate.device.{name}", entry, DEVICE_KINDS) for name, entry in devices.items()},
        {name: _table(path, f'gate.on."{name}"', entry, PROFILE_KINDS) for name, entry in profiles.items()},
        files,
        allowed,
        path,
    )


def matching(folder: Path, pattern: str, named_by: Path | None = None) -> list[Path]:
    """The files and folders that a name or a pattern stands for, in order.

    Raises UsageError where there are none. named_by: the file of limits that has the pattern.
    """
    if (exactly := folder / pattern).exists():
        return [exactly]
    found = sorted(map(Path, glob.glob(str(Path(glob.escape(str(folder))) / pattern), recursive=True)))  # noqa: PTH207  Path.glob takes no absolute pattern
    if not found:
        where = f"{named_by} has limits on {pattern}, but there" if named_by else "there"
        message = f"{where} is no {exactly}"
        raise UsageError(message, code="missing", option="limits" if named_by else None, path=exactly)
    return found


def _table(path: Path, title: str, table: Mapping[str, Quantity], kinds: Mapping[str, Any]) -> Limits:
    limits = {}
    for name, value in table.items():
        if name not in kinds and name in ALL_KINDS:
            message = f"{path}, [{title}]: {name} belongs in {_TABLES[name]}"
            raise UsageError(message, code="no-such-limit", option="limits", path=path, name=name)
        if name not in kinds:
            message = f"{path}, [{title}]: {registry.unknown('limit', name, list(kinds))}"
            raise UsageError(message, code="unknown-name", option="limits", path=path, name=name)
        try:
            limits[name] = quantity(name, value)
        except UsageError as error:
            message = f"{path}, [{title}]: {error}"
            raise UsageError(message, code=error.code, option="limits", path=path, name=name) from error
    return limits
