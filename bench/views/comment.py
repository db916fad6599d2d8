"""The comment on a pull request: the figures of all networks, what changed, and the limits that don't hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dwindle.bench.verdict import Verdict
from dwindle.bench.views.markdown import MARKS, said
from dwindle.bench.views.wording import ABSENT, signed
from dwindle.foreign import markdown
from dwindle.quantities import format_bytes

MOST = 100
"""Rows of one table: GitHub takes comments of 65,536 characters."""


def _millions(count: float) -> str:
    return f"{count / 1e6:,.2f}M"


def _points(value: float) -> str:
    return f"{value:.2f}"


_COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "size": ("size", format_bytes),
    "download": ("download", format_bytes),
    "accuracy": ("accuracy", _points),
    "cost": ("ARM64 instructions", _millions),
}


def marker(title: str) -> str:
    """The first line of the comment, by which it is found again; it isn't shown."""
    return f"<!-- dwindle gate: {_cell(title).replace('-', '')} -->"


def comment(verdict: Verdict, title: str) -> str:
    """The comment in GitHub-flavoured Markdown, networks sorted by size, the largest first."""
    mark = "⚠️" if verdict.unmeasured else "✅" if verdict.passed else "❌"
    lines = [marker(title), f"### {_cell(title)}", "", f"{mark} **{verdict.sentence.capitalize()}.**"]
    lines += _figures(verdict)
    rows = [row for row in verdict.rows if row.outcome != "pass"]
    if rows:
        lines += ["", "| | limit | of | allowed | measured | |", "|---|---|---|---:|---:|---|"]
    for row in rows[:MOST]:
        measured = ABSENT if row.measured is None else row.amount(row.measured)
        cells = (MARKS[row.outcome], row.title, row.subject, row.amount(row.limit), measured, said(row))
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += _more(len(rows))
    lines += ["", *(f"- {_cell(note)}" for note in verdict.notes[:MOST]), *_more(len(verdict.notes))]
    return "\n".join(lines).rstrip() + "\n"


def _figures(verdict: Verdict) -> list[str]:
    """A table with a row per network, a column per figure that any of them has."""
    names = sorted(verdict.figures, key=lambda name: (-verdict.figures[name].get("size", 0), name))
    columns = [column for column in _COLUMNS if any(column in one for one in verdict.figures.values())]
    if not columns:
        return []
    lines = ["", f"| | {' | '.join(_COLUMNS[column][0] for column in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in names[:MOST]:
        now, before = verdict.figures[name], verdict.previous.get(name, {})
        cells = (changed(column, now.get(column), before.get(column)) for column in columns)
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    return [*lines, *_more(len(names))]


def changed(column: str, now: float | None, before: float | None) -> str:
    """A figure and by how much it changed: `24.9 KB ↑ 1.2 KB (+5.06%)`, `96.20 ↓ −0.30`, `1.20M =`."""
    if now is None:
        return ABSENT
    shown = _COLUMNS[column][1]
    if before is None:
        return shown(now)
    if now == before:
        return f"{shown(now)} ="
    arrow = "↑" if now > before else "↓"
    if column == "accuracy":
        return f"{shown(now)} {arrow} {signed(now - before)}"
    share = f" ({signed(100 * (now / before - 1))}%)" if before else ""
    return f"{shown(now)} {arrow} {shown(abs(now - before))}{share}"


def _cell(text: str) -> str:
    """Text of others in a cell; long enough for any name, and it mentions nobody."""
    return markdown(text[:300]).replace("@", "&#64;")


def _more(count: int) -> list[str]:
    return ["", f"… and {count - MOST} more"] if count > MOST else []
