from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.export.codes.bitmask import decode, encode

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)


@st.composite
def sparse_arrays(draw: st.DrawFn) -> np.ndarray:
    """Any bit pattern (NaN, infinities, subnormals, signed zeros) at any density, 0 and 1 included."""
    dtype: np.dtype[Any] = draw(st.sampled_from([np.dtype(np.float32), np.dtype(np.float16)]))
    shape = draw(SHAPES)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = generator.integers(0, 256, math.prod(shape) * dtype.itemsize, np.uint8).view(dtype)
    weights[generator.random(weights.size) >= draw(st.sampled_from([0, 0.01, 0.1, 0.5, 0.9, 1]))] = 0
    return weights.reshape(shape)


@given(sparse_arrays())
def test_what_is_encoded_decodes_to_the_same_bits(weights: np.ndarray) -> None:
    mask, survivors = encode(weights)
    assert mask.nbytes == math.ceil(weights.size / 8)
    assert survivors.size == np.count_nonzero(weights)
    decoded = decode(mask, survivors, weights.shape)
    positive_zeros = np.where(weights == 0, weights.dtype.type(0), weights)
    assert decoded.dtype == weights.dtype
    assert decoded.shape == weights.shape
    assert decoded.tobytes() == positive_zeros.tobytes()


def test_the_first_weight_is_the_lowest_bit() -> None:
    mask, survivors = encode(np.array([[0, 2.5, 0, 0], [1, 0, 0, 0], [0, -3, 0, 0]], np.float32))
    assert mask.tolist() == [0b00010010, 0b00000010]
    assert survivors.tolist() == [2.5, 1, -3]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    mask, survivors = encode(np.array([0, 1, 2, 0, 3], np.float32))
    with pytest.raises(ValueError, match="a mask of 1 bytes is not one for 9 weights"):
        decode(mask, survivors, (9,))
    with pytest.raises(ValueError, match="the mask keeps 3 weights, there are 2"):
        decode(mask, survivors[:2], (5,))
    with pytest.raises(ValueError, match="bits set beyond its last weight"):
        decode(mask, survivors, (4,))
