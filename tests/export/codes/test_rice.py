from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.export.codes import rice

DENSITIES = st.sampled_from([0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 1])


@given(
    length=st.integers(0, 3000), density=DENSITIES, k=st.sampled_from(rice.PARAMETERS), seed=st.integers(0, 2**32 - 1)
)
def test_what_is_encoded_decodes_to_the_same_positions(length: int, density: float, k: int, seed: int) -> None:
    positions = np.flatnonzero(np.random.default_rng(seed).random(length) < density)
    unary, low = rice.encode(positions, k)
    np.testing.assert_array_equal(rice.decode(unary, low, k, positions.size), positions)
    bits = rice.bits(positions)[k]
    assert 0 <= 8 * (unary.size + low.size) - bits < 16


@given(st.lists(st.booleans(), max_size=100))
def test_bits_and_bytes(flags: list[bool]) -> None:
    bits = np.array(flags, np.uint8)
    unpacked = rice.unpack(rice.pack(bits))
    np.testing.assert_array_equal(unpacked[: bits.size], bits)
    assert not unpacked[bits.size :].any()
    assert unpacked.size == 8 * math.ceil(bits.size / 8)


def test_a_run_is_a_quotient_and_a_remainder() -> None:
    unary, low = rice.encode(np.array([2, 3, 13]), 2)  # runs of 2, 0 and 9 = 2 · 4 + 1
    assert rice.unpack(unary).tolist() == [1, 1, 0, 0, 1, 0, 0, 0]
    assert rice.unpack(low).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("density", [0.01, 0.02, 0.05, 0.1, 0.14, 0.2, 0.27])
def test_the_best_parameter_is_within_three_percent_of_the_entropy(density: float) -> None:
    positions = np.flatnonzero(np.random.default_rng(0).random(400_000) < density)
    share = positions.size / 400_000
    entropy = -400_000 * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert entropy < rice.bits(positions).min() < 1.03 * entropy


def test_parts_that_do_not_belong_together_are_refused() -> None:
    unary, low = rice.encode(np.array([2, 3, 13]), 2)
    with pytest.raises(ValueError, match="the mask keeps 3 weights, there are 2"):
        rice.decode(unary, low, 2, 2)
    with pytest.raises(ValueError, match="1 bytes are not the 3 low bits of 3 runs"):
        rice.decode(unary, low, 3, 3)
