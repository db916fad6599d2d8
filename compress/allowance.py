"""The budget `max_drop`: a network may shrink as far as its validation metric allows.

Regular rounds until one loses too much; then back to the last that didn't, and on from there in steps of half the
size, twice. Every decision follows from the history alone, so that a resumed run decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.checkpoint import Round
from dwindle.quantities import within

MISSES = 3
"""The search ends when this many rounds have lost too much; the last step it tries is a quarter of a regular one."""


@dataclass(frozen=True)
class Allowance:
    """How many points the validation metric may drop below the dense network's."""

    points: float

    def drop(self, record: Round, history: tuple[Round, ...]) -> float:
        """Returns how many points of validation a round lost against the dense network."""
        return history[0].validation - record.validation

    def holds(self, record: Round, history: tuple[Round, ...]) -> bool:
        """Returns whether a round is within the allowance."""
        return within(self.drop(record, history), self.points)

    def best(self, history: tuple[Round, ...]) -> Round:
        """Returns the last round that is within the allowance; the dense round always is."""
        return next(record for record in reversed(history) if self.holds(record, history))

    def rate(self, history: tuple[Round, ...], regular: float) -> float | None:
        """Returns the share of the surviving weights that the next round removes; None where the search is over."""
        misses = sum(not self.holds(record, history) for record in history)
        return regular / 2**misses if misses < MISSES else None
