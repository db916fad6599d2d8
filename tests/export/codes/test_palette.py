from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.export.codes.palette import ENTRIES, palettize


@given(
    size=st.integers(0, 400),
    density=st.sampled_from([0, 0.01, 0.1, 0.5, 1]),
    scale=st.sampled_from([1e-9, 1e-6, 1.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_zeros_stay_and_every_weight_takes_the_nearest_value(
    size: int, density: float, scale: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.laplace(size=size) * scale * (generator.random(size) < density)).clip(-65504, 65504)
    codes, palette = palettize(weights)
    assert palette.shape == (ENTRIES,)
    assert palette[0] == 0
    assert codes.size == 0 or 0 <= codes.min() <= codes.max() < ENTRIES
    values = palette[codes].astype(np.float32)
    assert not values[weights == 0].any()
    assert not codes[values == 0].any()  # one way to be zero
    nearest = np.abs(weights[:, None] - palette.astype(np.float32)).min(1)
    np.testing.assert_allclose(np.abs(weights - values), nearest, rtol=1e-3, atol=scale * 1e-6)


def test_few_values_are_kept_as_they_are() -> None:
    weights = np.array([[0, 0.5, -0.25], [3, 0.5, 0]], np.float32)
    codes, palette = palettize(weights)
    np.testing.assert_array_equal(palette[codes], weights)


@pytest.mark.parametrize(("density", "decibels"), [(1, 19.4), (0.1, 29.5)])
def test_normal_weights_lose_what_fifteen_levels_must(density: float, decibels: float) -> None:
    """Sixteen levels of Lloyd's quantiser leave 20.22 dB of a normal variable (Max, 1960), fifteen 0.55 dB less;
    what magnitude pruning leaves of one is two narrow tails, of which they leave more."""
    weights = np.random.default_rng(0).standard_normal(100_000)
    weights *= np.abs(weights) >= np.quantile(np.abs(weights), 1 - density)
    codes, palette = palettize(weights)
    noise = np.square(weights - palette[codes].astype(np.float64)).sum()
    assert 10 * np.log10(np.square(weights).sum() / noise) > decibels


def test_equal_weights_give_equal_palettes() -> None:
    weights = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    (first, one), (second, other) = palettize(weights), palettize(weights.copy())
    assert one.tobytes() == other.tobytes()
    assert first.tobytes() == second.tobytes()


@given(
    size=st.integers(0, 300),
    density=st.sampled_from([0, 0.01, 0.5, 1]),
    bits=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_with_few_bits_zeros_alone_are_zero(size: int, density: float, bits: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.laplace(size=size) + 1e-3) * (generator.random(size) < density)
    codes, palette = palettize(weights, bits)
    assert palette.shape == (2**bits + 1,)
    assert codes.size == 0 or 0 <= codes.min() <= codes.max() <= 2**bits
    np.testing.assert_array_equal(codes == 0, weights == 0)
    values, alive = palette[codes].astype(np.float32), weights != 0
    assert values[alive].all()
    used = palette[palette != 0].astype(np.float32)
    if alive.any():
        least = np.abs(weights[alive, None] - used).min(1)
        np.testing.assert_allclose(np.abs(weights - values)[alive], least, rtol=1e-3, atol=1e-5)
