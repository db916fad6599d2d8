"""Protocol buffers on the wire: the fields of a message, by their numbers, without the message's schema.

The format: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _I64, _BYTES, _I32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message; of a number, `start` and `end` enclose its bytes."""

    number: int
    start: int
    end: int
    value: int = 0
    """The number, of one of variable length."""


def fields(data: memoryview, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """The fields of the message in `data[start:end]`, in their order; raises ValueError for what is no message."""
    at, stop = start, len(data) if end is None else end
    while at < stop:
        tag, at = _varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        value, begin = 0, at
        if wire == _VARINT:
            value, at = _varint(data, at, stop)
        elif wire == _BYTES:
            size, begin = _varint(data, at, stop)
            at = begin + size
        elif wire in (_I32, _I64):
            at += 4 if wire == _I32 else 8
        else:
            raise ValueError(f"byte {at} begins no field of a protocol buffer")
        if at > stop or not number:
            raise ValueError(f"a field at byte {begin} reaches beyond its message")
        yield Field(number, begin, at, value)


def varints(data: memoryview, start: int, end: int) -> Iterator[int]:
    """The numbers of a packed field."""
    while start < end:
        value, start = _varint(data, start, end)
        yield value


def text(data: memoryview, field: Field) -> str:
    """A field's text; what is no UTF-8 is shown as replacement characters."""
    return bytes(data[field.start : field.end]).decode("utf-8", "replace")


def _varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f"it ends within a number at byte {at}")
