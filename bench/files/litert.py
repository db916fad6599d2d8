"""A .tflite file, by its FlatBuffer; of schema.fbs in the LiteRT repository, the places of the fields that are read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dwindle.bench.files.contents import GRAPH, MASK, TABLE, Contents, Tensor
from dwindle.bench.files.flatbuffer import Buffer, Table
from dwindle.bench.files.ledger import Ledger, kind_of
from dwindle.bench.files.litert_operators import OPERATORS

_TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16", "int2", "uint4", "float8",
    "float8",
)  # fmt: skip
"""The schema's TensorType."""
_NO_NUMBERS = ("string", "resource", "variant")
_SIZES = ("int32", "int64")
"""Tensors of these are shapes, indices and quantised biases."""
_CUSTOM = 32
"""The schema's BuiltinOperator of an operator that has its name in the file."""
_DELEGATED = ("DISPATCH_OP", "edgetpu-custom-op", "ethos-u", "DELEGATE")
"""Operators that stand for what was compiled for an accelerator."""
_VECTORS = {1: 4, 2: 2, 3: 1}
"""Bytes of an element of each kind of the schema's SparseIndexVector."""


def read(path: Path) -> Contents:
    """What is in a LiteRT file."""
    ledger = Ledger(path)
    model = Buffer(ledger.content, b"TFL3").root
    buffers = list(model.children(4))
    names = [_operator(code) for code in model.children(1)]
    operators: Counter[str] = Counter()
    sides: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    for number, graph in enumerate(model.children(2)):
        tensors = list(graph.children(0))
        for tensor in tensors:
            _claim(ledger, tensor, buffers)
        operators.update(_named(names, operator.number(0, "<I")) for operator in graph.children(3))
        if number == 0:
            inputs, outputs = ([_interface(tensors[index]) for index in graph.numbers(place)] for place in (1, 2))
            sides = tuple(inputs), tuple(outputs)
    for buffer in buffers:  # those of no tensor: metadata
        start, size = _place(buffer)
        ledger.claim(start, size, GRAPH, "metadata")
    rest = {name: count for name, count in operators.items() if name not in _DELEGATED}
    return Contents(
        format="LiteRT",
        parts=ledger.parts("operators"),
        inputs=sides[0],
        outputs=sides[1],
        operators=dict(operators),
        undelegated=rest if len(rest) < len(operators) else None,
    )


def _operator(code: Table) -> str:
    number = max(code.number(0, "<b"), code.number(3))
    if number == _CUSTOM:
        return code.text(1)
    return OPERATORS[number] if 0 <= number < len(OPERATORS) else f"operator {number}"


def _named(names: list[str], index: int) -> str:
    if index >= len(names):
        raise ValueError(f"an operator is the {index}th of {len(names)} kinds")
    return names[index]


def _type(tensor: Table) -> str:
    number = tensor.number(1, "<b")
    return _TYPES[number] if 0 <= number < len(_TYPES) else "?"


def _interface(tensor: Table) -> Tensor:
    """An input or output, by its signature's shape, where the file has one, in which −1 is a size that may change."""
    return Tensor(tensor.text(3), _type(tensor), tuple(tensor.numbers(7) or tensor.numbers(0)))


def _place(buffer: Table) -> tuple[int, int]:
    """Where a buffer's bytes are: within the FlatBuffer, or, of files of more than 2 GB, after it."""
    start, size = buffer.vector(0, 1)
    return (start, size) if size else (buffer.number(1, "<Q"), buffer.number(2, "<Q"))


def _claim(ledger: Ledger, tensor: Table, buffers: list[Table]) -> None:
    """A tensor's values, the scales by which its codes are read, and the tables of a sparse one."""
    name, storage = tensor.text(3), _type(tensor)
    number = tensor.number(2, "<I")
    if number >= len(buffers):
        raise ValueError(f"a tensor's values are the {number}th of {len(buffers)} buffers")
    start, size = _place(buffers[number])
    dimensions = 1 if storage in (*_SIZES, *_NO_NUMBERS) else tensor.vector(0, 4)[1]
    ledger.claim(start, size, kind_of(dimensions), name, "" if storage in _NO_NUMBERS or storage == "?" else storage)
    if scales := tensor.child(4):
        for place, width in ((0, 4), (1, 4), (2, 4), (3, 8)):
            begin, count = scales.vector(place, width)
            ledger.claim(begin, count * width, TABLE, name)
    for dimension in sparse.children(2) if (sparse := tensor.child(6)) else ():
        for kind, place in ((2, 3), (4, 5)):
            numbers, width = dimension.child(place), _VECTORS.get(dimension.number(kind, "<B"), 1)
            if numbers:
                begin, count = numbers.vector(0, width)
                ledger.claim(begin, count * width, MASK, name)
