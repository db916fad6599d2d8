from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.export.codes import nibbles


@given(hnp.arrays(np.int8, st.integers(0, 100), elements=st.integers(0, 15)))
def test_what_is_encoded_decodes_to_the_same_codes(codes: np.ndarray) -> None:
    packed = nibbles.encode(codes)
    assert packed.size == (codes.size + 1) // 2
    np.testing.assert_array_equal(nibbles.decode(packed, codes.size), codes)


def test_the_first_half_lies_in_the_low_bits() -> None:
    assert nibbles.encode(np.array([1, 2, 3], np.int8)).tolist() == [0x31, 0x02]


def test_bytes_of_other_codes_are_refused() -> None:
    packed = nibbles.encode(np.array([1, 2, 3], np.int8))
    with pytest.raises(ValueError, match="2 bytes are not 5 codes of four bits"):
        nibbles.decode(packed, 5)
    with pytest.raises(ValueError, match="bits set beyond the last code"):
        nibbles.decode(np.array([0x31, 0x12], np.uint8), 3)
