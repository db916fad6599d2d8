from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.export.codes import fields


@given(st.data(), st.sampled_from([1, 2, 3, 4]))
def test_what_is_encoded_decodes_to_the_same_codes(data: st.DataObject, bits: int) -> None:
    codes = data.draw(hnp.arrays(np.int8, st.integers(0, 100), elements=st.integers(0, 2**bits - 1)))
    words = fields.encode(codes, bits)
    assert words.nbytes == (-(-codes.size // 21) * 8 if bits == 3 else -(-codes.size * bits // 8))
    np.testing.assert_array_equal(fields.decode(words, bits, codes.size), codes)


def test_the_first_codes_lie_in_the_lowest_bits() -> None:
    assert fields.encode(np.array([1, 2, 3], np.int8), 4).tolist() == [0x31, 0x02]
    assert fields.encode(np.array([1, 2, 3, 0, 1], np.int8), 2).tolist() == [0b01_11_01, 0b00_10]
    assert fields.encode(np.array([1, 0, 1], np.int8), 1).tolist() == [0b101]
    assert fields.encode(np.array([7, 1], np.int8), 3).tolist() == [0o17]


def test_three_bits_take_less_than_a_sixtieth_more_than_three() -> None:
    assert fields.encode(np.zeros(21_000, np.int8), 3).nbytes * 8 / 21_000 < 3.05


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_words_of_other_codes_are_refused(bits: int) -> None:
    words = fields.encode(np.array([1, 0, 1], np.int8), bits)
    with pytest.raises(ValueError, match=f"are not 85 codes of {bits} bits"):
        fields.decode(words, bits, 85)
    with pytest.raises(ValueError, match="words of float32"):
        fields.decode(words.astype(np.float32), bits, 3)
    words[-1] |= words.dtype.type(1) << fields.shifts(bits)[-1]
    with pytest.raises(ValueError, match="bits set beyond the last code"):
        fields.decode(words, bits, 3)
