import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dwindle.bench.wire import receive, send

arrays = hnp.arrays(
    st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
headers = st.dictionaries(st.text().filter(lambda key: key != "arrays"), st.one_of(st.text(), st.integers(), st.none()))


@given(headers, st.lists(arrays, max_size=3))
def test_what_is_sent_is_received(header: dict[str, Any], sent: list[np.ndarray]) -> None:
    stream = io.BytesIO()
    send(stream, header, sent)
    send(stream, {"next": 1})
    stream.seek(0)
    got, received = receive(stream)
    assert got == header
    for before, after in zip(sent, received, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert before.tobytes() == after.tobytes()
        assert after.flags.writeable
    assert receive(stream) == ({"next": 1}, [])


def test_a_transposed_array_arrives_as_it_looks() -> None:
    stream, array = io.BytesIO(), np.arange(6.0).reshape(2, 3).T
    send(stream, {}, [array])
    stream.seek(0)
    np.testing.assert_array_equal(receive(stream)[1][0], array)


def test_a_stream_that_ends_anywhere_within_a_message_is_an_end() -> None:
    stream = io.BytesIO()
    send(stream, {"a": 1}, [np.ones(3)])
    whole = stream.getvalue()
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:length]))
