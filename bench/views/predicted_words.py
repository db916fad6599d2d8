"""Predicted times as people read them, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dwindle.bench.result import Predicted
from dwindle.bench.views.wording import ABSENT, together
from dwindle.quantities import format_ms


@dataclass(frozen=True)
class PredictedCells:
    """One file's prediction, ABSENT where there is none."""

    time: str
    interval: str
    measured: str
    ratio: str
    """Predicted over measured."""


def predicted_cells(one: Predicted) -> PredictedCells:
    """A prediction in words."""
    return PredictedCells(
        time=format_ms(one.ms) if one.ms else ABSENT,
        interval=" to ".join(map(format_ms, one.interval)) if one.interval else "",
        measured=format_ms(one.measured) if one.measured else ABSENT,
        ratio=f"{one.ratio:.3f}" if one.ratio else ABSENT,
    )


def predicted_title(predicted: Sequence[Predicted]) -> str:
    """`Predicted on cortex-a76`."""
    return f"Predicted on {', '.join(dict.fromkeys(one.device for one in predicted))}"


def predicted_notes(predicted: Sequence[Predicted]) -> list[str]:
    """What the figures mean, where they come from, and why some are absent."""
    profiles = ", ".join(dict.fromkeys(one.profile for one in predicted))
    legend = (
        f"predicted: the time of one inference by the profile {profiles}, and no measurement; nine in ten are within "
        "the interval; a zero counts as any weight · measured: the same file on that device in this bench · ratio: "
        "predicted over measured"
    )
    absent = together((f"{one.target} {one.role}", one.reason) for one in predicted if one.reason)
    return [
        legend,
        *dict.fromkeys(one.note for one in predicted if one.note and one.ms),
        *(f"not predicted: {files}: {reason}" for files, reason in absent),
    ]
