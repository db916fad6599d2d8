from __future__ import annotations

import math

import numpy as np
import pytest

from dwindle.difference import difference


def test_the_largest_difference_and_its_share_of_the_reference() -> None:
    found = difference(np.array([[1.0, 2.5], [-4.0, 0.0]]), np.array([[1.0, 2.0], [-4.0, 0.0]]))
    assert found.absolute == 0.5
    assert found.relative == pytest.approx(0.125)


def test_of_zeros_the_share_is_the_difference_itself() -> None:
    assert difference(np.array([0.5]), np.zeros(1)) == (0.5, 0.5)


@pytest.mark.parametrize(("array", "reference"), [(math.nan, 1.0), (1.0, math.nan)])
def test_a_nan_differs_from_everything(array: float, reference: float) -> None:
    assert difference(np.array([array, 1.0]), np.array([reference, 1.0])) == (math.inf, math.inf)


def test_a_nan_is_never_within_a_tolerance() -> None:
    assert not difference(np.array([1.0, math.nan]), np.array([1.0, 2.0])).relative <= 1e9
