from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dwindle.compress.allowance import MISSES, Allowance
from dwindle.record import Round


def history(*validation: float) -> tuple[Round, ...]:
    return tuple(Round(i, 1.0, None, value, None, 0.0) for i, value in enumerate(validation))


def test_the_step_halves_with_every_miss_until_it_is_over() -> None:
    allowance = Allowance(1.0)
    assert allowance.rate(history(90), 0.2) == 0.2
    assert allowance.rate(history(90, 89.5, 88.9), 0.2) == 0.1
    assert allowance.rate(history(90, 89.5, 88.9, 89.0, 88.0), 0.2) == 0.05
    assert allowance.rate(history(90, 88, 88, 88), 0.2) is None


def test_a_drop_of_exactly_what_is_allowed_holds() -> None:
    rounds = history(97.3, 96.3)
    assert Allowance(1.0).holds(rounds[1], rounds)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0, 50))
def test_the_best_is_the_last_that_holds(values: list[float], points: float) -> None:
    rounds, allowance = history(*values), Allowance(points)
    best = allowance.best(rounds)
    assert allowance.holds(best, rounds)
    assert not any(allowance.holds(record, rounds) for record in rounds[best.index + 1 :])
    assert (allowance.rate(rounds, 0.2) is None) == (sum(not allowance.holds(r, rounds) for r in rounds) >= MISSES)
