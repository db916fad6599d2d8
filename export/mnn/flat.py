"""FlatBuffers read and written by their schema, without generated code: tables as dictionaries.

MNN publishes no Python package of its format, only its schema, `mnn.fbs`. Format: https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Table = dict[str, Any]
"""Values by the names of their fields: a number, a string as bytes, an array, a Table, or a list of strings or Tables.
Of a union, such as `main`, the field `main_type` says which kind of Table it is."""

_SCALARS = {
    "bool": "u1", "byte": "i1", "int8": "i1", "ubyte": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4",
    "uint32": "<u4", "float": "<f4", "long": "<i8", "int64": "<i8",
}  # fmt: skip
_DEEPEST = 64
"""How deep tables may lie in each other; in MNN's own files it is nine."""


class Field(NamedTuple):
    """A field of a table, at one place of its vtable."""

    name: str
    kind: str
    """A scalar's numpy type, `string`, `union`, or the name of a table."""
    vector: bool


@dataclass(frozen=True)
class Schema:
    """The layouts of a file's tables."""

    tables: Mapping[str, tuple[Field, ...]]
    """Fields by the name of their table, in the order of the vtable."""
    union: tuple[str, ...]
    """The kinds of table that a union can be, as numbered from 1 on. MNN has one union."""


@cache
def schema() -> Schema:
    """MNN's schema."""
    text = re.sub(r"//.*", "", (Path(__file__).with_name("mnn.fbs")).read_text(encoding="utf-8"))
    scalars = _SCALARS | {name: _SCALARS[kind] for name, kind in re.findall(r"enum (\w+) : (\w+)", text)}
    [(union, kinds)] = re.findall(r"union (\w+) \{(.*?)\}", text, re.DOTALL)

    def fields(body: str) -> Iterator[Field]:
        for name, bracket, kind in re.findall(r"(\w+):(\[?)(\w+)\]?;", body):
            if kind == union:
                yield Field(f"{name}_type", "u1", False)
            yield Field(name, "union" if kind == union else scalars.get(kind, kind), bool(bracket))

    tables = {name: tuple(fields(body)) for name, body in re.findall(r"table (\w+) \{(.*?)\}", text, re.DOTALL)}
    return Schema(tables, tuple(re.findall(r"\w+", kinds)))


def read(content: bytes, root: str) -> Table:
    """A file's root table and all that it holds; raises ValueError for what does not follow the schema."""
    try:
        return _Reader(content).table(root, struct.unpack_from("<I", content, 0)[0], 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged ({error})") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.left = len(content) // 4  # tables that share their parts could be read without end

    def table(self, kind: str, place: int, depth: int) -> Table:
        self.left -= 1
        if depth > _DEEPEST or self.left < 0:
            raise ValueError("its tables lie in each other without end")
        start = place - struct.unpack_from("<i", self.content, place)[0]
        if start < 0:
            raise ValueError("a table lies outside of it")
        size = struct.unpack_from("<H", self.content, start)[0]
        found: Table = {}
        for index, field in enumerate(schema().tables[kind]):
            slot = start + 4 + 2 * index
            offset = struct.unpack_from("<H", self.content, slot)[0] if 4 + 2 * index < size else 0
            if offset:
                found[field.name] = self._value(field, place + offset, found, depth)
        return found

    def _value(self, field: Field, place: int, found: Table, depth: int) -> Any:
        kind = field.kind
        if kind == "union":
            number = found.get(f"{field.name}_type", 0)
            if not 0 < number <= len(schema().union):
                raise ValueError(f"it has a parameter of the unknown kind {number}")
            kind = schema().union[number - 1]
        if kind not in schema().tables and kind != "string" and not field.vector:
            return np.frombuffer(self.content, kind, 1, place)[0].item()
        place += struct.unpack_from("<I", self.content, place)[0]
        if not field.vector:
            return self._string(place) if kind == "string" else self.table(kind, place, depth + 1)
        length = struct.unpack_from("<I", self.content, place)[0]
        if kind in schema().tables or kind == "string":
            places = [place + 4 + 4 * index for index in range(self._checked(length))]
            ends = [each + struct.unpack_from("<I", self.content, each)[0] for each in places]
            return [self._string(end) if kind == "string" else self.table(kind, end, depth + 1) for end in ends]
        return np.frombuffer(self.content, kind, length, place + 4)

    def _checked(self, length: int) -> int:
        if 4 * length > len(self.content):
            raise ValueError(f"it claims a list of {length} entries")
        return length

    def _string(self, place: int) -> bytes:
        length = struct.unpack_from("<I", self.content, place)[0]
        if place + 4 + length > len(self.content):
            raise ValueError(f"it claims a string of {length} bytes")
        return self.content[place + 4 : place + 4 + length]


def write(table: Table, root: str) -> bytes:
    """The file of a root table. Fields of None are left out."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_put(builder, root, table))
    return bytes(builder.Output())


def _put(builder: Any, kind: str, values: Table) -> int:
    """Adds a table, what it holds first; its place."""
    fields = schema().tables[kind]
    given = [(slot, field) for slot, field in enumerate(fields) if values.get(field.name) is not None]
    places = {slot: _put_value(builder, field, values) for slot, field in given if _refers(field)}
    builder.StartObject(len(fields))
    for slot, field in sorted(given, key=lambda one: -_size(one[1])):  # the largest first: no gaps between them
        if slot in places:
            builder.PrependUOffsetTRelative(places[slot])
        else:
            builder.Prep(_size(field), 0)
            raw = np.array(values[field.name], field.kind).tobytes()
            builder.head -= len(raw)
            builder.Bytes[builder.head : builder.head + len(raw)] = raw
        builder.Slot(slot)
    place: int = builder.EndObject()
    return place


def _refers(field: Field) -> bool:
    """Whether a table holds where the field's value is, and not the value."""
    return field.vector or field.kind in ("string", "union") or field.kind in schema().tables


def _size(field: Field) -> int:
    return 4 if _refers(field) else np.dtype(field.kind).itemsize


def _put_value(builder: Any, field: Field, values: Table) -> int:
    value, kind = values[field.name], field.kind
    if kind == "union":
        kind = schema().union[values[f"{field.name}_type"] - 1]
    if not field.vector:
        return int(builder.CreateSharedString(value) if kind == "string" else _put(builder, kind, value))
    if kind not in schema().tables and kind != "string":
        return int(builder.CreateNumpyVector(np.ascontiguousarray(value, kind)))
    places = [builder.CreateSharedString(one) if kind == "string" else _put(builder, kind, one) for one in value]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())
