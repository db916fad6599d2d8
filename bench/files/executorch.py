"""A .pte file, by its FlatBuffer, its header and the graphs that XNNPACK is given in it.

Of schema/program.fbs and backends/xnnpack/serialization/schema.fbs in the ExecuTorch repository, the places of the
fields that are read.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

from dwindle.bench.files.contents import GRAPH, TABLE, Contents, Tensor
from dwindle.bench.files.flatbuffer import Buffer, Table
from dwindle.bench.files.ledger import Ledger, kind_of

_TYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
    12: "int8", 13: "uint8", 14: "int32", 15: "bfloat16", 16: "uint4", 17: "uint2", 22: "uint16", 23: "float8",
    24: "float8", 25: "float8", 26: "float8", 27: "uint16", 28: "uint32", 29: "uint64",
}  # fmt: skip
"""ScalarType."""
_XNNPACK_TYPES = {
    1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int32", 6: "int8", 7: "int32", 8: "int4", 9: "int8",
    10: "int4", 11: "int8", 12: "int32", 13: "float32", 14: "bfloat16",
}  # fmt: skip
"""XNNDatatype."""
_TENSOR, _KERNEL, _DELEGATE = 5, 1, 2
"""The numbers of Tensor among KernelTypes, of KernelCall and DelegateCall among InstructionArguments."""
_XNNPACK = "XnnpackBackend"
_HEADER = struct.Struct("<4sIQQ")
"""The extended header: magic, its length, bytes of the program, offset of the first segment."""
_VALUES, _CONSTANTS = 2, 8
"""The places of xvalues and constant_data in XNNGraph."""
_PER_CHANNEL, _PER_GROUP = 1, 4
"""The kinds of XNNQuantParams that have their scales among the constants, and the place of their number there."""


def read(path: Path) -> Contents:
    """What is in an ExecuTorch file. Weights that XNNPACK is given have no names in it but a hash of their own."""
    ledger = Ledger(path)
    program = Buffer(ledger.content, b"ET12").root
    base = 0
    if bytes(ledger.content[8:12]) == b"eh00":
        _, _, _, base = _HEADER.unpack_from(ledger.content, 8)
    segments = [(base + one.number(0, "<Q"), one.number(1, "<Q")) for one in program.children(4)]
    inline = [one.vector(0, 1) for one in program.children(3)]
    named = {one.text(0): _of(segments, one.number(1, "<I")) for one in program.children(7)}
    operators: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    sides: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    for number, plan in enumerate(program.children(1)):
        values = [_tensor(value) for value in plan.children(2)]
        for delegate in plan.children(7):
            _delegate(ledger, delegate, inline, segments, named)
        calls = _calls(plan)
        outside.update(calls)
        operators.update(calls)
        operators.update(_delegated(plan))
        for place, tensor in enumerate(values):
            if tensor is not None:
                _constant(ledger, program, tensor, segments, f"constant {place}")
        if number == 0:
            sides = tuple(tuple(_interface(values, plan, place)) for place in (3, 4))  # type: ignore[assignment]
    for name, (start, size) in named.items():
        ledger.claim(start, size, kind_of(2), name)
    opaque = next((name for name in operators - outside if name != _XNNPACK), None)
    return Contents("ExecuTorch", ledger.parts("program"), *sides, dict(operators), dict(outside), opaque)


def _of(listed: list[tuple[int, int]], index: int) -> tuple[int, int]:
    if index >= len(listed):
        raise ValueError(f"it refers to the {index}th of {len(listed)} segments")
    return listed[index]


def _tensor(value: Table) -> Table | None:
    return value.child(1) if value.number(0, "<B") == _TENSOR else None


def _calls(plan: Table) -> list[str]:
    """The operators that the runtime's own kernels execute, one for each call."""
    names = [f"{one.text(0)}.{one.text(1)}".rstrip(".") for one in plan.children(6)]
    return _called(plan, _KERNEL, names, "operators")


def _delegated(plan: Table) -> list[str]:
    """The delegates that are called, one for each call."""
    return _called(plan, _DELEGATE, [one.text(0) for one in plan.children(7)], "delegates")


def _called(plan: Table, kind: int, names: list[str], what: str) -> list[str]:
    """What the instructions of one kind call, one of `names` for each."""
    found = []
    for chain in plan.children(5):
        for instruction in chain.children(2):
            if instruction.number(0, "<B") == kind and (call := instruction.child(1)):
                index = call.number(0)
                if not 0 <= index < len(names):
                    raise ValueError(f"it calls the {index}th of {len(names)} {what}")
                found.append(names[index])
    return found


def _interface(values: list[Table | None], plan: Table, place: int) -> list[Tensor]:
    """The inputs (place 3) or outputs (4) of a plan: they have no names in the file, and are called by their order."""
    found = []
    for order, index in enumerate(plan.numbers(place)):
        if not 0 <= index < len(values):
            raise ValueError(f"an input or output is the {index}th of {len(values)} values")
        if (tensor := values[index]) is None:
            found.append(Tensor(str(order), "value", ()))
        else:
            found.append(Tensor(str(order), _TYPES.get(tensor.number(0, "<b"), "?"), tuple(tensor.numbers(2))))
    return found


def _constant(ledger: Ledger, program: Table, tensor: Table, segments: list[tuple[int, int]], name: str) -> None:
    """The values of a tensor that the runtime's own kernels read: in the constant segment, or in the program."""
    index = tensor.number(5, "<I")
    if not index:
        return
    extra = tensor.child(9)
    name = (extra.text(1) if extra else "") or name
    kind, storage = kind_of(tensor.vector(2, 4)[1]), _TYPES.get(tensor.number(0, "<b"), "")
    if constants := program.child(5):
        start, size = _of(segments, constants.number(0, "<I"))
        offsets = constants.numbers(1, "<Q")
        if index < len(offsets):
            end = min((one for one in offsets if one > offsets[index]), default=size)
            ledger.claim(start + offsets[index], end - offsets[index], kind, name, storage)
    for place, buffer in enumerate(program.children(2)):
        if place == index:
            ledger.claim(*buffer.vector(0, 1), kind, name, storage)


def _delegate(
    ledger: Ledger,
    delegate: Table,
    inline: list[tuple[int, int]],
    segments: list[tuple[int, int]],
    named: dict[str, tuple[int, int]],
) -> None:
    """What a delegate is given: of XNNPACK its graph and constants, of others bytes."""
    processed = delegate.child(1)
    if processed is None:
        return
    start, size = _of(segments if processed.number(0, "<b") else inline, processed.number(1, "<I"))
    ledger.claim(start, size, GRAPH, delegate.text(0))
    if delegate.text(0) == _XNNPACK and bytes(ledger.content[start + 4 : start + 8]) == b"XH00":
        _, offset, _, constants, _ = struct.unpack_from("<HIIIQ", ledger.content, start + 8)
        _xnnpack(ledger, Buffer(ledger.content, b"XN01", start + offset).root, start + constants, named)


def _xnnpack(ledger: Ledger, graph: Table, base: int, named: dict[str, tuple[int, int]]) -> None:
    """The constants of a graph; `base` is where those that are not named lie."""
    places = []
    for one in graph.children(_CONSTANTS):
        offset, size, key = base + one.number(0, "<Q"), one.number(1, "<Q"), one.text(2)
        start, room = named.get(key, (offset, size)) if key else (offset, size)
        places.append((start, min(size, room) if key else size, key))
    for value in graph.children(_VALUES):
        tensor, quantised = value.child(1), None
        if tensor is not None and value.number(0, "<B") == 2:
            tensor, quantised = tensor.child(0), tensor
        if tensor is None:
            continue
        storage = _XNNPACK_TYPES.get(tensor.number(0, "<h"), "")
        index = tensor.number(3, "<I")
        if 0 < index < len(places):
            start, size, key = places[index]
            ledger.claim(start, size, kind_of(tensor.vector(2, 4)[1]), key or f"constant {index}", storage)
        kind = quantised.number(1, "<B") if quantised else 0
        scales = quantised.child(2) if quantised else None
        if scales and kind in (_PER_CHANNEL, _PER_GROUP):
            index = scales.number(2 if kind == _PER_CHANNEL else 4, "<I")
            if 0 < index < len(places):
                start, size, key = places[index]
                ledger.claim(start, size, TABLE, key or f"constant {index}", "float32" if kind == _PER_CHANNEL else "")
