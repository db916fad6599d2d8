"""The budgets `max_drop` and `max_change`: a network may shrink as far as its validation metric allows.

Regular rounds until one loses too much; then back to the last that didn't, and on from there in steps of half the
size, twice. Every decision follows from the history alone, so that a resumed run decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dwindle.metrics import AGREEMENT, change
from dwindle.quantities import within
from dwindle.record import Round

MISSES = 3
"""The search ends when this many rounds have lost too much; the last step it tries is a quarter of a regular one."""


@dataclass(frozen=True)
class Allowance:
    """How many points the validation metric may drop below the dense network's."""

    points: float
    option: ClassVar[str] = "max_drop"

    def drop(self, record: Round, history: tuple[Round, ...]) -> float:
        """Returns how many points of validation a round lost against the dense network."""
        return history[0].validation - record.validation

    def holds(self, record: Round, history: tuple[Round, ...]) -> bool:
        """Returns whether a round is within the allowance."""
        return within(self.drop(record, history), self.points)

    def missed(self, record: Round, history: tuple[Round, ...]) -> str:
        """Returns what is to be said of a round that isn't within the allowance."""
        return f"lost {self.drop(record, history):.2f} points, and {self.points:g} are allowed"

    def best(self, history: tuple[Round, ...]) -> Round:
        """Returns the last round that is within the allowance; the dense round always is."""
        return next(record for record in reversed(history) if self.holds(record, history))

    def rate(self, history: tuple[Round, ...], regular: float) -> float | None:
        """Returns the share of the surviving weights that the next round removes; None where the search is over."""
        misses = sum(not self.holds(record, history) for record in history)
        return regular / 2**misses if misses < MISSES else None


@dataclass(frozen=True)
class Change(Allowance):
    """How much the answers may differ from the dense network's: `points` are the percentage that
    `dwindle.metrics.change` tells of `metric`, which is AGREEMENT or SQNR."""

    metric: str = AGREEMENT
    option: ClassVar[str] = "max_change"

    def drop(self, record: Round, history: tuple[Round, ...]) -> float:
        changed = change(record.validation, self.metric)
        assert changed is not None
        return changed

    def missed(self, record: Round, history: tuple[Round, ...]) -> str:
        return f"changed {self.drop(record, history):.2f}% of the answers, and {self.points:g}% are allowed"
