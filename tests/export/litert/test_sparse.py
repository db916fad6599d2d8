from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dwindle.export.litert.sparse import Sparse, decode, encode

TENSORS = arrays.arrays(
    st.sampled_from([np.float32, np.float16]),
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=12),
    elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.25]),
)


@given(TENSORS)
def test_decode_inverts_encode(tensor: np.ndarray) -> None:
    form = encode(tensor)
    assert form.values.size == max(1, np.count_nonzero(tensor))  # a buffer without bytes would be no constant
    assert decode(form).dtype == tensor.dtype
    assert np.array_equal(decode(form), tensor)


def test_the_format_is_that_of_the_schemas_example() -> None:
    """Compressed sparse rows of schema.fbs: segments say where a row begins, indices where in it."""
    matrix = np.zeros((3, 4), np.float32)
    matrix[0, 1], matrix[2, 0], matrix[2, 3] = 5, 6, 7
    form = encode(matrix)
    assert form.order == (0, 1)
    assert form.values.tolist() == [5, 6, 7]
    assert form.segments.tolist() == [0, 1, 1, 3]
    assert form.indices.tolist() == [1, 0, 3]


def test_rows_run_the_way_that_takes_fewer_bytes() -> None:
    wide = np.zeros((20, 1000), np.float32)
    wide[::2, ::3] = 1
    form = encode(wide)
    assert form.order == (1, 0)
    assert form.indices.dtype == np.uint8  # 1000 places would take two bytes each
    assert np.array_equal(decode(form), wide)


@pytest.mark.parametrize("rows", [1, 300, 70_000])
def test_numbers_take_the_smallest_type_that_holds_them(rows: int) -> None:
    form = encode(np.ones((rows, 1), np.float32))
    numbers = form.segments if form.order == (0, 1) else form.indices
    assert int(numbers[-1]) in (rows, rows - 1)
    assert np.array_equal(decode(form), np.ones((rows, 1), np.float32))


FORM = encode(np.eye(4, dtype=np.float32))


@pytest.mark.parametrize(
    "form",
    [
        replace(FORM, values=FORM.values[:3]),
        replace(FORM, segments=FORM.segments[:4]),
        replace(FORM, segments=np.array([0, 2, 1, 3, 4], np.uint8)),
        replace(FORM, indices=np.array([0, 1, 2, 4], np.uint8)),
        replace(FORM, shape=(4, 3)),
    ],
)
def test_lists_that_do_not_fit_are_refused(form: Sparse) -> None:
    with pytest.raises(ValueError, match="survivors"):
        decode(form)
