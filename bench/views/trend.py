"""A page about a gate's history: each figure of what was checked, run by run, and what the bytes of the files are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dwindle.bench.history import Entry
from dwindle.bench.verdict import Verdict
from dwindle.bench.views.page import render
from dwindle.bench.views.trend_chart import Point, trend_chart
from dwindle.bench.views.why import why_rows
from dwindle.quantities import format_bytes

LAST = 100
"""As many runs as a chart has room for, the newest ones."""
_LIMITS = {"size": "max_size", "download": "max_download", "cost": "max_cost", "accuracy": "min_accuracy"}
"""The limit on each figure."""
SIZES = (1032, 230), (520, 260)
"""Width and height of a chart on a wide screen and on a narrow one."""


def write_trend(path: Path, entries: Sequence[Entry], verdict: Verdict) -> Path:
    """Writes the page; the last of the entries is the run that the verdict is about.

    Raises DwindleError where it can't be written.
    """
    names = list(dict.fromkeys(name for entry in entries for name in entry.figures))
    current = [name for name in names if name in verdict.figures]
    facts = {
        "title": ", ".join(current or names) or "nothing checked yet",
        "sentence": verdict.sentence,
        "runs": len(entries),
        "last": min(LAST, len(entries)),
        "subjects": [(name, _figures(name, index, entries, verdict)) for index, name in enumerate(current)],
        "gone": [name for name in names if name not in current],
        "spent": [(name, why_rows(found)) for name, found in verdict.files.items()],
        "rows": [_row(entry, current) for entry in reversed(entries[-LAST:])],
        "current": current,
    }
    return render("trend.html.jinja", facts, path)


def _figures(subject: str, index: int, entries: Sequence[Entry], verdict: Verdict) -> list[dict[str, Any]]:
    """A chart for each figure of one subject, with what it is now and how it changed over the run before."""
    found = []
    for figure in ("size", "download", "cost", "accuracy"):
        points = [
            Point(entry.made[:10], (entry.commit or "")[:8], entry.figures[subject][figure], entry.passed)
            for entry in entries[-LAST:]
            if figure in entry.figures.get(subject, {})
        ]
        if not points:
            continue
        limit = _limit(subject, figure, verdict)
        charts = [
            trend_chart(points, limit, partial(read, figure), *size, f"c{index}{figure}{place}")
            for place, size in enumerate(SIZES)
        ]
        now, before = points[-1].value, points[-2].value if len(points) > 1 else None
        change = _change(figure, now, before)
        found.append({"name": figure, "now": read(figure, now), "change": change, "charts": charts})
    return found


def _limit(subject: str, figure: str, verdict: Verdict) -> float | None:
    """What the figure is held to now; None where it isn't."""
    rows = (row for row in verdict.rows if row.name == _LIMITS[figure] and row.device is None)
    named = {subject, subject.rpartition(" as ")[2]} if " as " in subject else {subject}
    return next((row.limit for row in rows if row.subject in named), None)


def _change(figure: str, now: float, before: float | None) -> str:
    if before is None:
        return "the first run"
    if now == before:
        return "as in the run before"
    if figure == "accuracy":
        return f"{now - before:+.2f} points".replace("-", "−")
    return f"{now / before - 1:+.2%}".replace("-", "−") if before else ""


def _row(entry: Entry, names: Sequence[str]) -> tuple[str, str, str, bool, list[str]]:
    sizes = [entry.figures.get(name, {}).get("size") for name in names]
    shown = [format_bytes(size) if size is not None else "–" for size in sizes]
    return entry.made.replace("T", " ")[:16], (entry.commit or "–")[:12], entry.dwindle, entry.passed, shown


def read(figure: str, value: float) -> str:
    """A figure with its unit."""
    if figure == "cost":
        return f"{value / 1e6:,.2f}M instructions"
    return f"{value:.2f}" if figure == "accuracy" else format_bytes(value)
