from __future__ import annotations

import contextlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.export.mnn import file
from dwindle.export.mnn.flat import read, schema, write

ints = st.integers(-(2**31), 2**31 - 1)
vectors = st.lists(ints, max_size=9).map(lambda numbers: np.array(numbers, "<i4"))
blobs = st.fixed_dictionaries(
    {},
    optional={
        "dims": vectors,
        "dataType": ints,
        "dataFormat": st.integers(-128, 127),
        "float32s": st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda some: np.array(some, "<f4")),
        "int64s": vectors.map(lambda numbers: numbers.astype("<i8")),
        "strings": st.lists(st.binary(max_size=5), max_size=3),
    },
)
layers = st.builds(
    lambda blob, rest: {"main_type": 1 + schema().union.index("Blob"), "main": blob, **rest},
    blobs,
    st.fixed_dictionaries({}, optional={"name": st.binary(max_size=7), "inputIndexes": vectors, "type": ints}),
)
nets = st.fixed_dictionaries({"oplists": st.lists(layers, max_size=4)}, optional={"tensorNumber": ints})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other)


@given(nets)
def test_what_was_written_is_read(net: dict[str, Any]) -> None:
    assert same(read(write(net, "Net"), "Net"), net)


def test_the_layout_is_flatbuffers() -> None:
    """By hand, from flatbuffers.dev/internals: root offset, vtable, table, vector."""
    content = write({"dims": np.array([7, 8], "<i4")}, "Blob")
    root = struct.unpack_from("<I", content)[0]
    vtable = root - struct.unpack_from("<i", content, root)[0]
    (offset,) = struct.unpack_from("<H", content, vtable + 4)
    vector = root + offset + struct.unpack_from("<I", content, root + offset)[0]
    assert struct.unpack_from("<3i", content, vector) == (2, 7, 8)


def test_a_field_of_none_is_left_out() -> None:
    assert read(write({"bizCode": None, "tensorNumber": 3}, "Net"), "Net") == {"tensorNumber": 3}


@given(nets, st.data())
def test_a_damaged_file_is_refused_or_read(net: dict[str, Any], data: st.DataObject) -> None:
    content = bytearray(write(net, "Net"))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        read(bytes(content[: data.draw(st.integers(0, len(content)))]), "Net")


def test_tables_that_share_their_parts_over_and_over_are_refused() -> None:
    """Offsets lead forward, so that no table can lie in itself; but lists of one table twice make 2²⁰ of twenty."""
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.StartObject(9)
    attribute = builder.EndObject()
    for _ in range(20):
        builder.StartVector(4, 2, 4)
        builder.PrependUOffsetTRelative(attribute)
        builder.PrependUOffsetTRelative(attribute)
        twice = builder.EndVector()
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(1, twice, 0)  # NamedAttrList.attr
        inner = builder.EndObject()
        builder.StartObject(9)
        builder.PrependUOffsetTRelativeSlot(8, inner, 0)  # Attribute.func
        attribute = builder.EndObject()
    builder.Finish(attribute)
    with pytest.raises(ValueError, match="without end"):
        read(bytes(builder.Output()), "Attribute")


def test_what_is_no_such_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r".+"):
        file.parse(b"\x93not a model" * 9)
    with pytest.raises(ValueError, match="not an MNN file"):
        file.parse(write({"tensorNumber": 3}, "Net"))
