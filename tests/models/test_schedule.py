from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.errors import UsageError
from dwindle.models import schedule
from dwindle.models.schedule import factor


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 0.1), (90, 0.1), (91, 0.01), (135, 0.01), (136, 0.001), (181, 0.001), (182, 0.001)]
)
def test_step_is_the_papers_over_182_epochs(epoch: int, rate: float) -> None:
    assert math.isclose(0.1 * factor("step", epoch / 182), rate)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 1), (0.25, 0.8535533905932737), (0.5, 0.5), (0.75, 0.14644660940672627), (1, 0)]
)
def test_cosine(progress: float, expected: float) -> None:
    assert math.isclose(factor("cosine", progress), expected, abs_tol=1e-12)


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.05, 0.5), (0.1, 1), (0.55, 0.5), (1, 0)])
def test_cosine_starts_where_warmup_ends(progress: float, expected: float) -> None:
    assert math.isclose(factor("cosine", progress, 0.1), expected, abs_tol=1e-12)


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.1, 0.5), (0.2, 1), (0.49, 1), (0.5, 0.1), (0.75, 0.01)])
def test_warmup_leaves_the_steps_where_they_are(progress: float, expected: float) -> None:
    assert math.isclose(factor("step", progress, 0.2), expected)


@given(st.sampled_from(["step", "imagenet", "cosine"]), st.floats(0, 1), st.floats(0, 0.99))
def test_never_above_the_peak_nor_below_zero(kind: schedule.Schedule, progress: float, warmup: float) -> None:
    assert 0 <= factor(kind, progress, warmup) <= 1


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown schedule 'cosin': did you mean 'cosine'"):
        schedule.check("cosin", 0)
    for warmup in (-0.1, 1.0):
        with pytest.raises(UsageError) as refused:
            schedule.check("step", warmup)
        assert refused.value.option == "warmup"
