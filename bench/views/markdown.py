"""The verdict as GitHub-flavoured Markdown, for a CI job's summary."""

from __future__ import annotations

from pathlib import Path

from dwindle import foreign
from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.wording import ABSENT, described
from dwindle.errors import DwindleError

MARKS = {"pass": "✅ pass", "allowed": "☑️ allowed", "miss": "❌ miss", "unmeasured": "⚠️ unmeasured"}


def append_markdown(verdict: Verdict, name: str, path: Path) -> None:
    """Adds a heading, the sentence and a table to a file: a job's steps share one summary.

    Raises DwindleError where `path` cannot be written.
    """
    append_text(markdown(verdict, name), path)


def append_text(text: str, path: Path) -> None:
    """Adds text to a file, which is made where there is none; raises DwindleError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as summary:
            summary.write(text)
    except OSError as error:
        raise DwindleError(f"cannot write {path}: {error.strerror}", code="unwritable", path=path) from error


def said(check: Check) -> str:
    """What a figure consists of, and why it may go beyond its limit."""
    return "; ".join(filter(None, (check.reason, f"allowed: {check.allowed}" if check.allowed else None)))


def markdown(verdict: Verdict, name: str) -> str:
    """A heading with `name`, the verdict in a sentence and a table with a row per limit; it ends in a blank line."""
    lines = [
        f"### dwindle gate: {foreign.markdown(name)}",
        "",
        f"**{verdict.sentence.capitalize()}.**",
        "",
        "| | limit | target | allowed | measured | |",
        "|---|---|---|---:|---:|---|",
    ]
    for check in verdict.rows:
        measured = ABSENT if check.measured is None else check.amount(check.measured)
        words = (MARKS[check.outcome], check.title, check.subject, check.amount(check.limit), measured)
        lines.append(f"| {' | '.join(map(foreign.markdown, (*words, said(check))))} |")
    for name, found in verdict.files.items():
        lines += ["", *(f"- {foreign.markdown(line)}" for line in described(name, found))]
    return "\n".join([*lines, "", ""])
