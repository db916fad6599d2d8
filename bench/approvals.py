"""Growth that is meant: lines in the file of limits let one figure go beyond its limit, up to a value, for a reason.

[[gate.allow]]
figure = "max_size"         # the limit; of max_growth also max_growth.size or max_growth.cost
of = "app/net.onnx"         # what it is about, as the verdict has it; absent: anything
up_to = "120KB"
reason = "two more classes, agreed on in March"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dwindle.bench.limits import ALL_KINDS, holds, quantity
from dwindle.bench.verdict import Verdict
from dwindle.errors import UsageError
from dwindle.registry import unknown

_KEYS = {"figure", "of", "up_to", "reason"}


@dataclass(frozen=True)
class Approval:
    """One figure that may go beyond its limit."""

    figure: str
    """The name of the limit."""
    up_to: float
    """The value to which it may go, as the limit counts."""
    reason: str
    of: str | None = None
    """The target, the file, or the subject of the check; None for any."""

    def covers(self, figure: str, names: Sequence[str]) -> bool:
        """Whether it is about a figure, `max_growth.size` for example, of what has those names."""
        return self.figure in (figure, figure.partition(".")[0]) and (self.of is None or self.of in names)

    def allows(self, figure: str, measured: float) -> bool:
        return holds(figure, measured, self.up_to)


def read_approvals(path: Path, listed: Any) -> tuple[Approval, ...]:
    """The approvals of a file of limits; raises UsageError where one lacks its reason or names no limit."""
    if not isinstance(listed, list):
        raise _wrong(path, "allow is no list of tables: write [[gate.allow]]")
    return tuple(_approval(path, one) for one in listed)


def approved(verdict: Verdict, approvals: Sequence[Approval]) -> Verdict:
    """The verdict with those checks passed that are beyond their limit and approved of, and a note on each approval
    that isn't needed any more, as its figures are within their limits again."""
    rows = []
    checked: set[Approval] = set()
    needed: set[Approval] = set()
    for row in verdict.rows:
        able = [one for one in approvals if one.covers(row.name, (row.subject, row.target))]
        checked |= set(able)
        if row.passed or row.measured is None:
            rows.append(row)
            continue
        needed |= set(able)
        allowing = next((one for one in able if one.allows(row.name, row.measured)), None)
        rows.append(replace(row, passed=True, allowed=allowing.reason) if allowing else row)
    expired = [
        f"the approval of {one.figure} of {one.of or 'any file'} ({one.reason}) has expired, as the limit holds again: "
        "remove it from the limits"
        for one in approvals
        if one in checked - needed
    ]
    return replace(verdict, rows=tuple(rows), notes=(*verdict.notes, *expired))


def _approval(path: Path, one: Any) -> Approval:
    given = one if isinstance(one, dict) else {}
    if not {"figure", "up_to", "reason"} <= given.keys() <= _KEYS:
        raise _wrong(path, "each needs figure, up_to and reason, and may have of")
    figure, reason, of = given["figure"], given["reason"], given.get("of")
    if not (isinstance(figure, str) and isinstance(reason, str) and reason.strip() and isinstance(of, str | None)):
        raise _wrong(path, "figure, reason and of are text, and reason is not empty")
    name = figure.partition(".")[0]
    if name not in ALL_KINDS:
        raise _wrong(path, unknown("limit", name, list(ALL_KINDS)))
    try:
        return Approval(figure, quantity(name, given["up_to"]), reason, of)
    except UsageError as error:
        raise _wrong(path, str(error)) from error


def _wrong(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}, [[gate.allow]]: {why}", code="approval", option="limits", path=path)
