"""FlatBuffers: the tables of a file, their fields by their places, without the generated classes of a schema.

The format: https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from collections.abc import Iterator


class Buffer:
    """A FlatBuffer within a file. No more than several times its bytes are read, so that reading comes to an end where
    many references lead to one table."""

    def __init__(self, data: memoryview, identifier: bytes = b"", base: int = 0) -> None:
        """Raises ValueError where the buffer that begins at `base` doesn't have the format's identifier, if it has
        one."""
        if bytes(data[base + 4 : base + 4 + len(identifier)]) != identifier:
            raise ValueError(f"it has no {identifier.decode()} at byte {base + 4}")
        self.data, self.base = data, base
        self._left = 4 * len(data)

    @property
    def root(self) -> Table:
        return self.table(self.base + self.number("<I", self.base))

    def table(self, at: int) -> Table:
        self.spend(4)
        return Table(self, at)

    def spend(self, bytes_: int) -> None:
        """Counts what is read; raises ValueError where it is more than several times the file."""
        self._left -= bytes_
        if self._left < 0:
            raise ValueError("its tables refer to each other over and over")

    def number(self, form: str, at: int) -> int:
        try:
            return int(struct.unpack_from(form, self.data, at)[0]) if at >= 0 else self._beyond(at)
        except struct.error:
            return self._beyond(at)

    def _beyond(self, at: int) -> int:
        raise ValueError(f"it refers to byte {at} of {len(self.data)}")


class Table:
    """A table; `place` is a field's place in its schema, beginning with 0."""

    def __init__(self, buffer: Buffer, at: int) -> None:
        self.buffer, self.at = buffer, at
        self._vtable = at - buffer.number("<i", at)
        self._size = buffer.number("<H", self._vtable)

    def _field(self, place: int) -> int:
        """Where a field's value is; 0 where the table doesn't have it."""
        entry = 4 + 2 * place
        offset = self.buffer.number("<H", self._vtable + entry) if entry < self._size else 0
        return self.at + offset if offset else 0

    def number(self, place: int, form: str = "<i", default: int = 0) -> int:
        return self.buffer.number(form, at) if (at := self._field(place)) else default

    def child(self, place: int) -> Table | None:
        return self.buffer.table(self._followed(at)) if (at := self._field(place)) else None

    def vector(self, place: int, width: int) -> tuple[int, int]:
        """Where a vector's elements of `width` bytes begin, and how many there are; (0, 0) where it has none."""
        at = self._field(place)
        if not at:
            return 0, 0
        start = self._followed(at)
        count = self.buffer.number("<I", start)
        if start + 4 + count * width > len(self.buffer.data):
            raise ValueError(f"a vector at byte {start} reaches beyond its {len(self.buffer.data)} bytes")
        return start + 4, count

    def numbers(self, place: int, form: str = "<i") -> list[int]:
        width = struct.calcsize(form)
        start, count = self.vector(place, width)
        self.buffer.spend(width * count)
        return [self.buffer.number(form, start + width * index) for index in range(count)]

    def children(self, place: int) -> Iterator[Table]:
        start, count = self.vector(place, 4)
        for index in range(count):
            yield self.buffer.table(self._followed(start + 4 * index))

    def text(self, place: int) -> str:
        return self._text(*self.vector(place, 1))

    def texts(self, place: int) -> list[str]:
        start, count = self.vector(place, 4)
        ends = (self._followed(start + 4 * index) for index in range(count))
        return [self._text(end + 4, self.buffer.number("<I", end)) for end in ends]

    def _text(self, start: int, count: int) -> str:
        self.buffer.spend(4 + count)
        return bytes(self.buffer.data[start : start + count]).decode("utf-8", "replace")

    def _followed(self, at: int) -> int:
        return at + self.buffer.number("<I", at)
