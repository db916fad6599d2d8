"""An .onnx file, by its protocol buffer; of onnx.proto, the numbers of the fields that are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dwindle.bench.files.contents import CONSTANT, GRAPH, MASK, TABLE, VALUES, Contents, Part, Tensor
from dwindle.bench.files.ledger import Ledger, kind_of
from dwindle.bench.files.protobuf import Field, fields, text, varints
from dwindle.errors import DwindleError

_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8",
    18: "float8", 19: "float8", 20: "float8", 21: "uint4", 22: "int4", 23: "float4", 24: "float8", 25: "uint2",
    26: "int2",
}  # fmt: skip
"""TensorProto.DataType."""
_DATA = (4, 5, 7, 9, 10, 11)
"""TensorProto's fields of values: as floats, as integers, raw."""
_PLAIN = {4: "float32", 10: "float64"}
"""What those that hold fixed-size numbers hold; the others' are of variable length but for raw_data."""
_RAW = 9
_INTEGER_SHAPES = ("int64", "int32")
"""Tensors of these are sizes and indices."""
_UNPACKING = "dw"
"""The domain of the functions by which a file that dwindle wrote unpacks its weights (export/onnx/unpack.py)."""
_MASKS = {"Ones", "Gaps", "Pairs"}
_TABLES = {
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"), (1, 2)),
    **{"QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7), "ConvInteger": (2, 3)},
    **{"MatMulInteger": (2, 3), "MatMulNBits": (2, 3), "dw.Scaled": (1,), "dw.Scales": (1,)},
    **dict.fromkeys(("dw.Look", "dw.LookHex", "dw.LookOctal", "dw.LookQuarters", "dw.LookBits"), (1,)),
}
"""Which inputs of an operator are scales, zero points or palettes."""
_DELEGATED = "EPContext"
"""The operator that stands for what was compiled for an accelerator."""


class _Node(NamedTuple):
    kind: str
    """With its domain, if it has one of its own."""
    inputs: list[str]
    outputs: list[str]


class _Stored(NamedTuple):
    name: str
    storage: str
    dimensions: int
    data: list[Field]
    external: dict[str, str]


def read(path: Path) -> Contents:
    """What is in an ONNX file and in the files of external data that it names, which have to lie beside it."""
    ledger = Ledger(path)
    model = list(fields(ledger.content))
    graph = next((field for field in model if field.number == 7), None)
    if graph is None:
        raise ValueError("it has no graph")
    walk = _Walk(ledger, graph)
    for field in model:
        if field.number == 25:
            ledger.claim(field.start, field.end - field.start, GRAPH, "functions")
    further = tuple(part for name in walk.beside for part in walk.external(path, name))
    operators = Counter(node.kind for node in walk.nodes)
    rest = {kind: count for kind, count in operators.items() if not kind.endswith(_DELEGATED)}
    return Contents(
        format="ONNX",
        parts=(*ledger.parts("model"), *further),
        inputs=tuple(walk.interface(11)),
        outputs=tuple(walk.interface(12)),
        operators=dict(operators),
        undelegated=rest if len(rest) < len(operators) else None,
        beside=tuple(walk.beside),
    )


class _Walk:
    """A model's graph and those within it."""

    def __init__(self, ledger: Ledger, graph: Field) -> None:
        self.ledger, self.data, self.graph = ledger, ledger.content, graph
        self.nodes: list[_Node] = []
        self.stored: list[_Stored] = []
        self.beside: dict[str, list[_Stored]] = {}
        self._graph(graph)
        roles = dict(self._roles())
        packed = {name for node in self.nodes if node.kind.startswith(f"{_UNPACKING}.") for name in node.inputs}
        for one in self.stored:
            kind = roles.get(one.name) or (CONSTANT if one.storage in _INTEGER_SHAPES else kind_of(one.dimensions))
            for field in one.data:
                storage = one.storage if field.number == _RAW else _PLAIN.get(field.number, "")
                if one.name in packed and storage.startswith("uint"):  # codes of survivors
                    storage = ""
                ledger.claim(field.start, field.end - field.start, kind, one.name, storage)
            if where := one.external.get("location"):
                self.beside.setdefault(where, []).append(one)
        self._roles_by_name = roles

    def _graph(self, graph: Field) -> None:
        for field in fields(self.data, graph.start, graph.end):
            if field.number == 1:
                self._node(field)
            elif field.number == 5:
                self._tensor(field)
            elif field.number == 15:  # a SparseTensorProto: values and where they are
                for part in fields(self.data, field.start, field.end):
                    if part.number in (1, 2):
                        self._tensor(part)

    def _node(self, node: Field) -> None:
        found: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
        attributes = []
        for field in fields(self.data, node.start, node.end):
            if field.number in found:
                found[field.number].append(text(self.data, field))
            elif field.number == 5:
                attributes.append(field)
        domain = next((name for name in found[7] if name not in ("", "ai.onnx", "com.microsoft")), "")
        kind = ".".join(filter(None, (domain, *found[4])))
        self.nodes.append(_Node(kind, found[1], found[2]))
        self.ledger.claim(node.start, node.end - node.start, GRAPH, kind)
        for attribute in attributes:
            for field in fields(self.data, attribute.start, attribute.end):
                if field.number in (5, 10):
                    self._tensor(field, next(iter(found[2]), ""))
                elif field.number in (6, 11):
                    self._graph(field)

    def _tensor(self, tensor: Field, name: str = "") -> None:
        storage, dimensions = "", 0
        data: list[Field] = []
        external: dict[str, str] = {}
        for field in fields(self.data, tensor.start, tensor.end):
            if field.number == 1:
                packed = field.value == 0 and field.end - field.start > 1
                dimensions += len(list(varints(self.data, field.start, field.end))) if packed else 1
            elif field.number == 2:
                storage = _TYPES.get(field.value, "")
            elif field.number == 8:
                name = text(self.data, field) or name
            elif field.number in _DATA:
                data.append(field)
            elif field.number == 13:
                external.update([self._entry(field)])
        self.ledger.claim(tensor.start, tensor.end - tensor.start, GRAPH, "names and shapes")
        self.stored.append(_Stored(name, storage, dimensions, data, external))

    def _entry(self, entry: Field) -> tuple[str, str]:
        found = {field.number: text(self.data, field) for field in fields(self.data, entry.start, entry.end)}
        return found.get(1, ""), found.get(2, "")

    def _roles(self) -> Iterator[tuple[str, str]]:
        """What tensors are that operators read as something in particular; the last that is said of one counts."""
        for node in self.nodes:
            packed = node.kind.startswith(f"{_UNPACKING}.")
            if packed or node.kind == "Split":
                role = MASK if node.kind[len(_UNPACKING) + 1 :] in _MASKS else VALUES
                yield from ((name, role) for name in (node.inputs if packed else node.inputs[:1]))
        for node in self.nodes:
            places = _TABLES.get(node.kind, ())
            yield from ((name, TABLE) for place, name in enumerate(node.inputs) if place in places)

    def interface(self, number: int) -> Iterator[Tensor]:
        """The inputs (field 11) or outputs (12) of the model; an input that has a value is a weight."""
        known = {one.name for one in self.stored}
        for field in fields(self.data, self.graph.start, self.graph.end):
            if field.number == number and (found := self._tensor_info(field)).name not in known:
                yield found

    def _tensor_info(self, info: Field) -> Tensor:
        name, kind, shape = "", 0, []
        for field in fields(self.data, info.start, info.end):
            if field.number == 1:
                name = text(self.data, field)
            for tensor in self._inside(field, 2, 1):
                for part in fields(self.data, tensor.start, tensor.end):
                    kind = part.value if part.number == 1 else kind
                    for dimension in self._inside(part, 2, 1):
                        sizes = list(fields(self.data, dimension.start, dimension.end))
                        shape.append(next((_size(self.data, size) for size in sizes if size.number < 3), "?"))
        return Tensor(name, _TYPES.get(kind, "?"), tuple(shape))

    def _inside(self, field: Field, number: int, inner: int) -> Iterator[Field]:
        """The fields `inner` of a message, if it is the field `number`."""
        if field.number == number:
            yield from (part for part in fields(self.data, field.start, field.end) if part.number == inner)

    def external(self, path: Path, name: str) -> tuple[Part, ...]:
        """The parts of a file of external data. Raises DwindleError where it isn't beside the model."""
        if re.match(r"[/\\]|\w:", name) or ".." in re.split(r"[/\\]", name):
            raise DwindleError(f"{path} names {name} as its weights, which isn't beside it", code="outside", path=path)
        beside = path.parent / name
        if not beside.is_file():
            message = f"{path} needs {beside}, which holds its weights and is missing: put it there"
            raise DwindleError(message, code="missing", path=beside)
        ledger = Ledger(beside)
        for one in self.beside[name]:
            start = int(one.external.get("offset", 0))
            size = int(one.external.get("length", len(ledger.content) - start))
            kind = self._roles_by_name.get(one.name) or kind_of(one.dimensions)
            ledger.claim(start, size, kind, one.name, one.storage)
        return ledger.parts("padding")


def _size(data: memoryview, size: Field) -> int | str:
    """A size as it is written, of 64 bits with a sign, or its name."""
    if size.number != 1:
        return text(data, size)
    return size.value if size.value < 1 << 63 else size.value - (1 << 64)
