"""The budget `max_drop`: validation says how far to shrink, where the other budgets count something.

Regular rounds until one loses too much; then back to the last that didn't, and on from there in steps of half the
size, twice. All of it follows from the history, so that a resumed run decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.checkpoint import Round
from dwindle.quantities import within

MISSES = 3
"""How many rounds may lose too much before the search ends. The last step tried is a quarter of a regular one."""


@dataclass(frozen=True)
class Allowance:
    """How much validation may drop below the dense network's, in points."""

    points: float

    def drop(self, record: Round, history: tuple[Round, ...]) -> float:
        return history[0].validation - record.validation

    def holds(self, record: Round, history: tuple[Round, ...]) -> bool:
        return within(self.drop(record, history), self.points)

    def best(self, history: tuple[Round, ...]) -> Round:
        """The last round that holds: the dense one does."""
        return next(record for record in reversed(history) if self.holds(record, history))

    def rate(self, history: tuple[Round, ...], regular: float) -> float | None:
        """The share of the survivors that the next round removes; None where the search is over."""
        misses = sum(not self.holds(record, history) for record in history)
        return regular / 2**misses if misses < MISSES else None
