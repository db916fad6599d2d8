"""An .mnn file, by its FlatBuffer; of schema/default in the MNN repository, the places of the fields that are read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from dwindle.bench.files.contents import BITS, CONSTANT, MASK, TABLE, VALUES, Contents, Tensor
from dwindle.bench.files.flatbuffer import Buffer, Table
from dwindle.bench.files.ledger import Ledger, kind_of
from dwindle.bench.files.mnn_operators import OPERATORS
from dwindle.errors import DwindleError

_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 19: "float16",
}  # fmt: skip
"""The schema's DataType."""
_HALF_TYPE = 19
_INPUT, _BLOB, _LOOP = 34, 7, 92
"""The OpType of an input; of OpParameter, the numbers of a constant and of a loop, which has operators of its own."""


class _Layout(NamedTuple):
    """Where an operator's parameters keep their numbers: the places of fields in the parameters' table."""

    floats: dict[int, str] = {}  # noqa: RUF012  a default that is never changed
    """Vectors of fp32, by what they are."""
    blobs: tuple[int, ...] = ()
    """Tensors of any type."""
    codes: int | None = None
    """The IDSTQuan: weights in another form than fp32."""
    external: int | None = None
    """Where numbers lie that are kept beside the file: an offset, then the bytes of each vector."""


_LAYOUTS = {
    5: _Layout({1: "slope", 2: "mean", 3: "variance", 4: "bias"}),
    9: _Layout({1: "weight", 2: "bias"}, codes=3, external=6),
    20: _Layout({3: "weight", 4: "bias"}, codes=7),
    24: _Layout(blobs=(3, 4, 5, 6, 7)),
    25: _Layout({3: "weight", 4: "bias"}),
    27: _Layout({3: "scale"}),
    32: _Layout({1: "slope"}),
    34: _Layout(blobs=(6, 7, 8)),
    58: _Layout({1: "scale", 2: "bias"}, external=3),
    72: _Layout(blobs=tuple(range(4, 14))),
    80: _Layout({1: "weight", 2: "bias"}, external=3),
    88: _Layout({2: "scale", 3: "bias"}, external=5),
    95: _Layout({2: "scale", 3: "bias"}, external=6),
}
"""By the parameters' number in OpParameter: BatchNorm, Convolution2D, InnerProduct, LSTM, MatMul, Normalize, PRelu,
Proposal, Scale, RNNParam, Convolution3D, LayerNorm, GroupNorm."""
_VECTORS = {3: ("uint8", 1), 4: ("int8", 1), 5: ("int32", 4), 6: ("int64", 8), 7: ("float32", 4)}
"""Storage and bytes of a number, by the place of the vector in a Blob."""
_FORMS = (("buffer", 0, 1), ("alpha", 1, 4), ("index", 13, 4))
"""IDSTQuan's vectors, with the bytes of a number: codes; scales, or survivors; the places of survivors."""
_WEIGHTS = 12
"""The place of IDSTQuan's number of weights, which it has where `alpha` holds the survivors."""
_HALF, _DENSE_CODES, _STEPS = 3, 1, 2
"""IDSTQuan's types: fp16; codes; the distance of each survivor from the one before it, then codes of the survivors."""


def read(path: Path) -> Contents:
    """What is in an MNN file and in the file of weights beside it, where it has one (`net.mnn.weight`)."""
    ledger = Ledger(path)
    net = Buffer(ledger.content).root
    names = net.texts(7)
    walk = _Walk(path, ledger)
    for operator in net.children(3):
        walk.operator(operator, names, top=True)
    if not walk.operators:
        raise ValueError("it has no operators")
    for graph in net.children(10):
        inner = graph.texts(3)
        for operator in graph.children(4):
            walk.operator(operator, inner)
    outputs = [Tensor(name, "?", ()) for name in net.texts(4)]
    further = [part for beside in walk.beside.values() for part in beside.parts("padding")]
    return Contents(
        format="MNN",
        parts=(*ledger.parts("operators"), *further),
        inputs=tuple(walk.inputs),
        outputs=tuple(outputs),
        operators=dict(walk.operators),
        beside=tuple(file.name for file in walk.beside),
    )


class _Walk:
    """The operators of a file, and the numbers that each holds."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path, self.ledger = path, ledger
        self.beside: dict[Path, Ledger] = {}
        self.operators: Counter[str] = Counter()
        self.inputs: list[Tensor] = []

    def operator(self, operator: Table, names: list[str], *, top: bool = False) -> None:
        """An operator; `names` are those of its graph's tensors. top: it is of the network's own graph."""
        number = operator.number(5)
        kind = OPERATORS.get(number, f"operator {number}")
        made = operator.numbers(4)
        name = operator.text(3) or (names[made[0]] if made and 0 <= made[0] < len(names) else "") or kind
        parameters, which = operator.child(2), operator.number(1, "<B")
        if number == _INPUT:
            if parameters and top:
                dtype = _TYPES.get(parameters.number(1, default=1), "?")
                self.inputs.append(Tensor(name, dtype, tuple(parameters.numbers(0))))
            return
        if kind != "Const":
            self.operators[kind] += 1
        if parameters is None:
            return
        if which == _BLOB:
            self._blob(parameters, name, operator)
        elif which == _LOOP:
            for place in (6, 7):
                for command in parameters.children(place):
                    if inner := command.child(0):
                        self.operator(inner, [])
        elif layout := _LAYOUTS.get(which):
            self._parameters(parameters, layout, name, operator)

    def _parameters(self, parameters: Table, layout: _Layout, name: str, operator: Table) -> None:
        for place, what in layout.floats.items():
            start, count = parameters.vector(place, 4)
            self.ledger.claim(start, 4 * count, VALUES if what == "weight" else CONSTANT, f"{name}.{what}", "float32")
        for place in layout.blobs:
            if blob := parameters.child(place):
                self._blob(blob, f"{name}.{place}", operator)
        codes = parameters.child(layout.codes) if layout.codes is not None else None
        if codes:
            for what, place, width in _FORMS:
                start, count = codes.vector(place, width)
                self._codes(self.ledger, start, width * count, what, codes, f"{name}.weight")
        if layout.external is not None and (places := parameters.numbers(layout.external, "<q")):
            held = ("buffer", "alpha", "bias", "index") if codes else tuple(layout.floats.values())
            ledger, start = self._external(operator), places[0]
            for what, size in zip(held, places[1:], strict=False):
                self._codes(ledger, start, size, what, codes, name if what == "bias" else f"{name}.weight")
                start += size

    def _codes(self, ledger: Ledger, start: int, size: int, what: str, codes: Table | None, name: str) -> None:
        """A vector of weights in some form, of what they are read by, or of other numbers."""
        if what == "weight":
            ledger.claim(start, size, VALUES, name, "float32")
        elif what == "index":
            ledger.claim(start, size, MASK, name)
        elif what == "buffer" and codes:
            self._buffer(ledger, start, size, codes, name)
        elif what == "alpha" and codes:
            role = VALUES if codes.number(_WEIGHTS, "<I") else TABLE
            ledger.claim(start, size, role, name, "float32")
        else:
            ledger.claim(start, size, CONSTANT, name, "float32")

    def _buffer(self, ledger: Ledger, start: int, size: int, codes: Table, name: str) -> None:
        """Weights as fp16, or a head, a table of what each code stands for, and codes."""
        form = codes.number(2)
        if form == _HALF:
            ledger.claim(start, size, VALUES, name, "float16")
            return
        storage, at = "", 9 if codes.number(11, "<B") else 5
        if form in (_DENSE_CODES, _STEPS) and size > at + 1:
            content = ledger.content[start : start + size]
            if form == _STEPS and size > at + 5:
                count, bits = int.from_bytes(content[at : at + 4], "little"), content[at + 4]
                steps = -(-count * bits // 8)
                at += 5
                if at + steps < size:
                    ledger.claim(start + at, steps, MASK, name)
                    at += steps
            samples = content[at] or 256
            if form == _DENSE_CODES:
                ledger.claim(start, min(at + 1 + samples, size), TABLE, name)
                storage = f"uint{max(1, (samples - 1).bit_length())}"
        ledger.claim(start, size, VALUES, name, storage if storage in BITS else "")

    def _blob(self, blob: Table, name: str, operator: Table) -> None:
        dimensions = blob.vector(0, 4)[1]
        for place, (storage, width) in _VECTORS.items():
            start, count = blob.vector(place, width)
            kind = CONSTANT if storage in ("int32", "int64") else kind_of(dimensions)
            half = blob.number(2) == _HALF_TYPE and width == 1
            self.ledger.claim(start, width * count, kind, name, "float16" if half else storage)
        if len(places := blob.numbers(9, "<q")) > 1:
            storage = _TYPES.get(blob.number(2), "")
            self._external(operator).claim(places[0], places[1], kind_of(dimensions), name, storage)

    def _external(self, operator: Table) -> Ledger:
        """The file of weights that an operator names, or the one that is called as the file is."""
        name = operator.text(7) or f"{self.path.name}.weight"
        if Path(name).name != name or "\\" in name:
            message = f"{self.path} names {name} as its weights, which isn't beside it"
            raise DwindleError(message, code="outside", path=self.path)
        beside = self.path.parent / name
        if beside not in self.beside:
            if not beside.is_file():
                message = f"{self.path} needs {beside}, which holds its weights and is missing: put it there"
                raise DwindleError(message, code="missing", path=beside)
            self.beside[beside] = Ledger(beside)
        return self.beside[beside]
