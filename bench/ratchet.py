"""Lowers the limits in a TOML file to what is measured today, and leaves the rest of the file as it was written."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwindle.bench.budget_file import SLACK
from dwindle.bench.limits import matching, quantity
from dwindle.bench.verdict import Check, Verdict
from dwindle.errors import UsageError
from dwindle.files import read_toml, staged

LOWERED = ("max_size", "max_download", "max_cost")
"""The limits on figures that are the same in every run. Times and accuracies vary, so that theirs are left alone."""
_TODAY = re.compile(r"# *[\d,]+ today$")
"""The comment that `dwindle gate --init` writes."""


@dataclass(frozen=True)
class Lowered:
    """A limit that was lowered."""

    table: str
    """Its table, such as `gate.onnx`."""
    name: str
    before: float
    now: int


def lower_limits(path: Path, verdict: Verdict, *, but: Collection[str] = ()) -> list[Lowered]:
    """Lowers each size and cost in a file of limits to the largest figure that it was held to, and SLACK more.

    No limit is raised. One is left as it is where a figure is absent, where its table is for files that were not all
    checked, or where its name is in `but`, as another value than the file's was checked.

    Raises UsageError where the file can't be read, DwindleError where it can't be written.
    """
    import tomlkit

    read_toml(path)  # for its errors
    document: Any = tomlkit.parse(path.read_text(encoding="utf-8"))
    figures: dict[tuple[str, ...], list[float | None]] = {}
    for row in verdict.rows:
        if row.name in LOWERED and row.name not in but and (table := _table_of(row, document["gate"], path, verdict)):
            figures.setdefault((*table, row.name), []).append(row.measured)
    changed = []
    for (*keys, name), measured in figures.items():
        known = [value for value in measured if value is not None]
        if len(known) < len(measured):
            continue
        entry = document
        for key in keys:
            entry = entry[key]
        before, now = quantity(name, entry[name]), math.ceil(max(known) * (1 + SLACK))
        if now >= before:
            continue
        comment = entry[name].trivia.comment
        entry[name] = now
        if _TODAY.match(comment):
            entry[name].comment(f"{max(known):,.0f} today")
        changed.append(Lowered(".".join(keys), name, before, now))
    if changed:
        with staged(path) as scratch:
            scratch.write_text(tomlkit.dumps(document), encoding="utf-8")
    return changed


def _table_of(row: Check, gate: Mapping[str, Any], path: Path, verdict: Verdict) -> tuple[str, ...] | None:
    """The keys of the table that the row's limit is from; None where that is for files which weren't all checked."""
    of_checkpoint = row.target not in verdict.subjects
    if of_checkpoint and row.name in gate.get(row.target, {}):
        return ("gate", row.target)
    checked = {file.resolve() for file in verdict.subjects.values()}
    own = Path(row.checkpoint).resolve() if row.checkpoint else next(iter(checked), None)
    subject = own if of_checkpoint else verdict.subjects[row.target].resolve()
    for pattern, limits in reversed([*gate.get("file", {}).items()]):  # the last one wins
        files = {file.resolve() for file in matching(path.parent, pattern, path)}
        if row.name in limits and subject in files:
            return ("gate", "file", pattern) if files <= checked else None
    return ("gate",) if row.name in gate else None


def require_limits_file(path: Path | None) -> Path:
    """The file of limits; raises UsageError where none was given."""
    if path is None:
        raise UsageError("there is no file of limits to update: give `limits`", code="no-limits", option="limits")
    return path
