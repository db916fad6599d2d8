"""Limits on what ships: from flags, or from the `[gate]` table of a TOML file.

[gate]                  # of every target that is checked
max_drop = 1.0

[gate.onnx]             # of one, over those above
max_size = "100KB"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from dwindle import registry
from dwindle.errors import UsageError
from dwindle.files import read_toml
from dwindle.quantities import parse_bytes, parse_count

Quantity = int | float | str
Limits = Mapping[str, float]
"""By their names, in the units of KINDS."""


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
    return _at_least(0)(float(text[:-1]) / 100 if text.endswith("%") else float(text))


KINDS: dict[str, tuple[Callable[[Quantity], float], str]] = {
    "max_size": (_size, "a size: give installed bytes such as 500KB"),
    "max_download": (_size, "a size: give deflated bytes such as 500KB"),
    "max_drop": (_at_least(0), "a drop: give points, 0 or more"),
    "min_accuracy": (_at_least(0), "an accuracy: give points, such as 92.5"),
    "max_cost": (_count, "a cost: give ARM64 instructions per inference, such as 150M"),
    "max_ratio": (_at_least(0), "a ratio: give the time over the dense file's, such as 0.8"),
    "max_growth": (_growth, "a growth: give a share such as 2%"),
}
"""Each limit's parser and what its value is."""


def quantity(name: str, value: Quantity) -> float:
    """A limit's value as a number; raises UsageError where it isn't one of its kind."""
    parse, kind = KINDS[name]
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = parse(value)
        except (ValueError, OverflowError, UsageError):
            number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name} {value!r} is not {kind}")
    return number


def read_limits(path: Path) -> tuple[Limits, dict[str, Limits]]:
    """A file's limits: those of every target, and each target's own.

    Raises UsageError where it can't be read, has no [gate], or has a key that is no limit.
    """
    gate = read_toml(path).get("gate")
    if not isinstance(gate, dict):
        raise UsageError(f"{path} has no [gate] table")
    targets = {name: entry for name, entry in gate.items() if isinstance(entry, dict)}
    shared = {name: entry for name, entry in gate.items() if name not in targets}
    return _table(path, "gate", shared), {name: _table(path, f"gate.{name}", entry) for name, entry in targets.items()}


def _table(path: Path, title: str, table: Mapping[str, Quantity]) -> Limits:
    limits = {}
    for name, value in table.items():
        if name not in KINDS:
            raise UsageError(f"{path}, [{title}]: {registry.unknown('limit', name, list(KINDS))}")
        try:
            limits[name] = quantity(name, value)
        except UsageError as error:
            raise UsageError(f"{path}, [{title}]: {error}") from error
    return limits
