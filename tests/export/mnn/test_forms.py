from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dwindle.export.mnn import forms
from dwindle.export.mnn.flat import read, write
from dwindle.export.quantize import store

WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=20),
    elements=st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.5, -2.25, 1e-3]),
)
GENERATOR = np.random.default_rng(0)


def sparse(shape: tuple[int, ...], density: float, block: int = 1) -> np.ndarray:
    """Weights of which blocks along the output channels survive."""
    keep = GENERATOR.random((shape[0] // block, *shape[1:])) < density
    return (GENERATOR.uniform(0.5, 1, shape) * keep.repeat(block, 0)).astype("<f4")


def through_a_file(fields: dict[str, Any]) -> dict[str, Any]:
    return read(write(fields, "Convolution2D"), "Convolution2D")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@given(WEIGHTS, st.booleans(), st.booleans())
def test_decode_inverts_encode(precision: str, weights: np.ndarray, pack: bool, sparse: bool) -> None:
    tensor = store("weight", weights, precision)
    written = forms.encode(tensor, pack=pack, thresholds=forms.THRESHOLDS if sparse else {})
    layer = through_a_file(written.fields)
    expected = tensor.decoded().astype("<f4") + np.float32(0)  # + 0: a code of 0 times a scale is a positive zero
    assert forms.decode(layer).tobytes() == expected.tobytes()
    assert (written.block > 0) == ("sparseParameter" in layer) <= (pack and sparse)
    dense = forms.encode(tensor, pack=False, thresholds={})
    assert sum(forms.sizes(layer)) <= sum(forms.sizes(through_a_file(dense.fields)))


@pytest.mark.parametrize(("rows", "columns"), [(3, 70_000), (70_000, 8), (5, 9)])
def test_large_layers_have_wide_numbers(rows: int, columns: int) -> None:
    tensor = store("weight", sparse((rows, columns), 0.01), "int8")
    for pack in (False, True):
        layer = through_a_file(forms.encode(tensor, pack=pack, thresholds={}).fields)
        assert layer["quanParameter"]["shapeInt32"] == (max(rows, columns) > 65535)
        assert np.array_equal(forms.decode(layer), tensor.decoded().reshape(-1))


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_the_block_is_that_of_the_pattern(block: int) -> None:
    assert forms.best_block(sparse((64, 100), 0.1, block)) == block
    assert forms.best_block(sparse((64, 100), 0.9, block)) == 0
    assert forms.best_block(np.zeros((64, 100), "<f4")) == 16


@pytest.mark.parametrize(("block", "slower", "faster"), [(1, 0.2, 0.1), (4, 0.4, 0.25)])
def test_a_convolution_that_is_fast_densely_stays_dense_for_longer(block: int, slower: float, faster: float) -> None:
    some, few = (sparse((64, 100), density, block) for density in (slower, faster))
    assert forms.best_block(some) == forms.best_block(few, forms.WINOGRAD) == block
    assert forms.best_block(some, forms.WINOGRAD) == 0


def test_what_is_covered_by_blocks_is_counted() -> None:
    nonzero = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 1]], bool)
    assert forms.covered(nonzero, 1) == (6, 6)
    assert forms.covered(nonzero, 2) == (2 * 2 + 3 * 2 + 1, 2 + 3 + 1)  # the fifth channel counts alone
    assert forms.covered(nonzero, 4) == (3 * 4 + 1, 3 + 1)


def test_the_numbers_that_mnn_looks_up_are_in_order_and_right() -> None:
    weights = sparse((8, 50), 0.1, 4)
    fields = forms.encode(store("weight", weights, "fp32"), pack=True, thresholds=forms.THRESHOLDS).fields
    args = fields["sparseParameter"]["args"]
    assert [each["key"] for each in args] == sorted(each["key"] for each in args)
    numbers = {each["key"].decode(): each["i"] for each in args}
    assert numbers["sparseBlockOC"] in (4, 8)
    assert numbers["NNZElement"] >= np.count_nonzero(weights)
    assert numbers["blockNumber"] * numbers["sparseBlockOC"] == numbers["NNZElement"]


@pytest.mark.parametrize(
    "quantized",
    [
        {"index": np.array([9], "<u4"), "alpha": np.ones(1, "<f4"), "weightSize": 9},
        {"index": np.array([1, 2], "<u4"), "alpha": np.ones(1, "<f4"), "weightSize": 9},
        {"type": 7, "buffer": np.zeros(9, "i1")},
        {"type": 1, "buffer": np.zeros(3, "i1")},
        {"type": 1, "buffer": np.full(300, 2, "i1"), "alpha": np.ones(1, "<f4")},
        {"type": 2, "buffer": np.array([2, 1, 0, 1, 0, 9, 0, 0, 0, 99], "i1"), "alpha": np.ones(1, "<f4")},
    ],
)
def test_damaged_weights_are_refused(quantized: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        forms.decode({"quanParameter": quantized})
