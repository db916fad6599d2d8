"""The budgets `max_drop` and `max_change`: a network may shrink as far as its validation metric allows.

Regular rounds until one loses too much; then back to the last that didn't, and on from there in steps of half the
size, twice. Every decision follows from the history alone, so that a resumed run decides the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dwindle.errors import BudgetMissed
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

    @property
    def half(self) -> Self:
        """Half of it: what channels may lose before weights are pruned within the whole."""
        return replace(self, points=self.points / 2)

    def holds(self, record: Round, history: tuple[Round, ...]) -> bool:
        """Returns whether a round is within the allowance."""
        return within(self.drop(record, history), self.points)

    def missed(self, record: Round, history: tuple[Round, ...]) -> str:
        """Returns what is to be said of a round that isn't within the allowance."""
        return f"lost {self.drop(record, history):.2f} points, and {self.points:g} are allowed"

    def best(self, history: tuple[Round, ...]) -> Round:
        """Returns the last round that is within the allowance; the dense round always is."""
        return next(record for record in reversed(history) if self.holds(record, history))

    def held(self, history: tuple[Round, ...]) -> tuple[Round, ...]:
        """Returns the rounds that are within the allowance; raises BudgetMissed where the dense one alone is."""
        held = tuple(record for record in history if self.holds(record, history))
        if len(held) == 1:
            raise BudgetMissed(
                f"no round keeps to `{self.option}` (the last one {self.missed(history[-1], history)}): allow more",
                code="out-of-reach",
                option=self.option,
            )
        return held

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


def searched(history: tuple[Round, ...], allowances: Sequence[Allowance]) -> tuple[tuple[Round, ...], ...]:
    """The rounds that the search within each allowance goes by, the dense one first; none where a later one has begun.

    allowances: of one search, or of channels and then of weights, which goes on from the channels that held. Only a cut
    lowers the multiply-accumulates: so the first round with as many as the one it went on from is one of weights.
    """
    if len(allowances) == 1:
        return (history,)
    of_channels = allowances[0]
    begun = next(
        (index for index in range(1, len(history)) if history[index].macs == of_channels.best(history[:index]).macs),
        len(history),
    )
    held = tuple(record for record in history[:begun] if of_channels.holds(record, history))
    return history if begun == len(history) else (), (*held, *history[begun:])
