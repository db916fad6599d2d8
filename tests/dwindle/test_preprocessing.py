from __future__ import annotations

import math

import pytest

from dwindle.errors import UsageError
from dwindle.preprocessing import Preprocessing, normalization


def test_normalisations_by_name_and_by_number() -> None:
    assert normalization("data") is None
    assert normalization("imagenet") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("0-1") == ((0.0,), (1.0,))
    assert normalization("0.1,0.2,0.3/0.4,0.5,0.6") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("text", ["image-net", "0.5", "0.5/0", "0.5,0.5/0.5", "0.5/inf", "0.5/nan", "/", "a/b"])
def test_what_normalises_nothing(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        normalization(text)
    assert refused.value.option == "normalize"


def test_moments_are_on_the_scale_of_pixels() -> None:
    assert Preprocessing((0.5,), (0.2,)).moments == ((127.5,), (51.0,))


def test_one_number_is_for_every_channel() -> None:
    assert Preprocessing((0.5,), (0.2,)).over(3).mean == (0.5, 0.5, 0.5)
    three = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert three.over(3) is three
    with pytest.raises(UsageError) as refused:
        three.over(1)
    assert refused.value.option == "normalize"
    assert math.isclose(three.moments[0][1], 51)
