from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from dwindle.errors import UsageError
from dwindle.export.fold import tensors
from dwindle.export.quantize import FOUR_BITS, LARGEST, LARGEST_INT4, SCALES, quantized, spread, store, stored

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9)


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Rows of any size that fp16 reaches, dead ones too, at any density."""
    shape = draw(SHAPES)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = 2.0 ** generator.integers(-30, 13, (shape[0], *[1] * (len(shape) - 1)))
    alive = generator.random(shape) < draw(st.sampled_from([0, 0.01, 0.1, 0.5, 1]))
    return (generator.laplace(size=shape) * rows * alive).clip(-65504, 65504).astype(np.float32)


@given(weights())
def test_int8_keeps_zeros_and_stays_within_half_a_step(array: np.ndarray) -> None:
    held = store("w", array, "int8")
    if array[0].size < 8:
        assert held.values.dtype == np.float16
        return
    assert held.values.dtype == np.int8
    assert np.abs(held.values.astype(int)).max() <= LARGEST
    assert not (held.values[array == 0]).any()
    steps = SCALES.astype(np.float32)[held.scale]
    assert (np.abs(held.decoded() - array) <= steps / 2 * (1 + 1e-6)).all()
    # no row's scale is a notch larger than it has to be, what the smallest one holds apart
    finer = SCALES.astype(np.float32)[np.maximum(held.scale.astype(int) - 1, 0)].reshape(len(array))
    largest = np.abs(array).reshape(len(array), -1).max(1)
    assert ((largest > finer * LARGEST) | (held.scale.reshape(len(array)) == 0)).all()


@given(weights())
def test_a_product_of_code_and_scale_is_exact(array: np.ndarray) -> None:
    held = store("w", array, "int8")
    if held.scale is not None:
        exact = held.values.astype(np.float64) * SCALES.astype(np.float64)[held.scale]
        np.testing.assert_array_equal(held.decoded(), exact)


@st.composite
def long_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows long enough for four bits, of few sizes or many, some dead, at any density."""
    shape = draw(st.sampled_from([(9, 64), (4, 96, 3), (5, 12, 3, 3), (3, 130), (1, 64)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    reach = draw(st.sampled_from([0, 3, 14]))
    rows = 2.0 ** generator.integers(-reach, reach + 1, (shape[0], *[1] * (len(shape) - 1)))
    alive = generator.random(shape) < draw(st.sampled_from([0, 0.01, 0.1, 0.5, 1]))
    alive[generator.random(shape[0]) < draw(st.sampled_from([0, 0.5]))] = False
    return (generator.laplace(size=shape) * rows * alive).clip(-65504, 65504).astype(np.float32)


@given(long_rows())
def test_int4_keeps_zeros_and_stays_within_half_a_step_of_its_block(array: np.ndarray) -> None:
    held = store("w", array, "int4")
    assert held.scale is not None
    if np.abs(array).max() > LARGEST_INT4 * SCALES[-1]:
        assert held.bits == 8  # beyond what int4's scales reach
        return
    assert (held.kind, held.bits) == ("int4", 4)
    assert np.abs(held.values).max() <= LARGEST_INT4
    assert not held.values[array == 0].any()
    assert array.shape[1] % held.scale.shape[1] == 0
    assert held.scale.shape[1] == 1 or np.count_nonzero(array) >= 64 * held.scale.size
    steps = spread(SCALES[held.scale], array.shape).astype(np.float32)
    assert (np.abs(held.decoded() - array) <= steps / 2 * (1 + 1e-6)).all()


@given(long_rows())
def test_palette4_keeps_zeros_and_fp16_holds_what_it_decodes_to(array: np.ndarray) -> None:
    held = store("w", array, "palette4")
    assert held.palette is not None
    assert (held.kind, held.bits) == ("palette4", 4)
    decoded = held.decoded()
    assert not held.values[array == 0].any()
    assert ((held.values == 0) == (decoded == 0)).all()
    half = decoded.astype(np.float16)
    assert np.isfinite(half).all()
    if held.scale is not None:
        assert ((half == 0) == (decoded == 0)).all()
        exact = held.palette.astype(np.float64)[held.values] * SCALES.astype(np.float64)[held.scale]
        np.testing.assert_array_equal(decoded, exact)


def test_rows_of_a_palette_have_scales_where_they_differ() -> None:
    generator = np.random.default_rng(0)
    alike = generator.standard_normal((50, 400)).astype(np.float32)
    unlike = alike * 2.0 ** generator.uniform(-5, 5, (50, 1)).astype(np.float32)
    assert store("w", alike, "palette4").scale is None
    scaled = store("w", unlike, "palette4")
    assert scaled.scale is not None
    ratios = np.square(unlike).sum(1) / np.square(unlike - scaled.decoded()).sum(1)
    assert 10 * np.log10(ratios.min()) > 15  # the smallest rows too


def test_at_four_bits_the_first_layer_and_short_rows_keep_eight() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 3))
    for precision in FOUR_BITS:
        held = stored(network.requires_grad_(False), precision)
        assert [held[f"{index}.weight"].kind or held[f"{index}.weight"].values.dtype.name for index in range(3)] == [
            "int8", "int8", precision,
        ]  # fmt: skip
        assert held["2.bias"].values.dtype == np.float16


def test_scales_rise_evenly_and_reach_all_of_fp16() -> None:
    scales = SCALES.astype(np.float64)
    assert scales.size == 256
    assert scales[0] == 2**-14
    assert scales[-1] * LARGEST == pytest.approx(65504, rel=1e-3)
    ratios = scales[1:] / scales[:-1]
    assert (ratios > 1.06).all()
    assert (ratios < 1.07).all()


def test_what_has_no_rows_is_fp16_and_what_is_not_float_stays() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(3, 5))
    held = stored(network.requires_grad_(False), "int8")
    kinds = {name: tensor.values.dtype.name for name, tensor in held.items()}
    assert kinds["0.weight"] == "int8"
    assert kinds["1.num_batches_tracked"] == "int64"
    assert set(kinds.values()) == {"int8", "float16", "int64"}
    assert kinds["2.weight"] == kinds["0.bias"] == "float16"  # rows of three weights are no use for a scale
    half = stored(network, "fp16")
    assert {tensor.values.dtype.name for tensor in half.values()} == {"float16", "int64"}


def test_the_network_that_a_file_holds() -> None:
    network = nn.Linear(20, 3).requires_grad_(False)
    network.weight[:, ::2] = 0
    held = stored(network, "int8")
    copied = quantized(network, held)
    assert not copied.weight[:, ::2].any()
    for name, tensor in tensors(copied).items():
        assert tensor.numpy().tobytes() == held[name].decoded().tobytes()
    assert not torch.equal(copied.weight, network.weight)
    np.testing.assert_allclose(copied.weight, network.weight, atol=2e-3)
    with pytest.raises(AssertionError, match="weight was pruned"):
        quantized(network, {**held, "weight": store("weight", np.ones((3, 20), np.float32), "fp32")})


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4", "palette4"])
@pytest.mark.parametrize("value", [7e4, np.nan])
def test_a_weight_out_of_reach_is_refused(precision: str, value: float) -> None:
    array = np.full((2, 9), value, np.float32)
    with pytest.raises(UsageError) as refused:
        store("w", array, precision)
    assert (refused.value.code, refused.value.name) == ("out-of-range", "w")
    assert store("w", array, "fp32").values is array
