"""A badge: one network's size and accuracy in a small picture, green where every limit holds."""

from __future__ import annotations

from pathlib import Path

from dwindle.bench.verdict import Verdict
from dwindle.bench.views.page import render
from dwindle.errors import UsageError
from dwindle.foreign import xml
from dwindle.quantities import format_bytes

CHARACTER = 6.6
"""Pixels that a character of 11 px takes at most; the text is fitted to the width."""
_GREEN, _RED, _GREY = "#2e7d32", "#c62828", "#6b7280"


def write_badge(path: Path, verdict: Verdict) -> None:
    """Writes an SVG with the name, the size and, where it was measured, the accuracy of the one file that was checked.

    Raises UsageError where several were checked, or none is there; DwindleError where `path` can't be written.
    """
    if len(verdict.figures) != 1:
        message = f"a badge is about one file, and the figures of {len(verdict.figures)} are known: check one"
        raise UsageError(message, code="not-one-file", option="badge", path=path)
    ((name, figures),) = verdict.figures.items()
    accuracy = [f"accuracy {figures['accuracy']:.1f}"] if "accuracy" in figures else []
    left = xml(verdict.subjects[name].name[:60])
    right = " · ".join([format_bytes(figures["size"]), *accuracy])
    colour = _GREY if verdict.unmeasured else _GREEN if verdict.passed else _RED
    widths = [round(len(text) * CHARACTER) + 12 for text in (left, right)]
    render("badge.svg.jinja", {"left": left, "right": right, "widths": widths, "colour": colour}, path)
