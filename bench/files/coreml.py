"""An .mlpackage folder or an .mlmodel file, by its protocol buffers and its weight files.

Of Model.proto, FeatureTypes.proto and MIL.proto in the coremltools repository, the numbers of the fields that are read;
the weight files are described in MILBlob/Blob/StorageFormat.hpp there.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dwindle.bench.files.contents import CONSTANT, GRAPH, MASK, TABLE, VALUES, Contents, Part, Tensor
from dwindle.bench.files.ledger import Ledger, kind_of
from dwindle.bench.files.protobuf import Field, fields, text, varints
from dwindle.errors import DwindleError
from dwindle.files import walk

_TYPES = {
    1: "bool", 10: "float16", 11: "float32", 12: "float64", 13: "bfloat16", 21: "int8", 22: "int16", 23: "int32",
    24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2",
    37: "uint1", 38: "uint6", 39: "uint3", 40: "float8", 41: "float8",
}  # fmt: skip
"""MIL.proto's DataType."""
_ARRAYS = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}
"""ArrayFeatureType.ArrayDataType."""
_NETWORKS = (303, 403, 500)
"""Model's fields of networks in the form before programs."""
_PROGRAM = 502
_MASKS = ("mask", "data_mask", "indices_mask")
_TABLES = ("scale", "offset", "zero_point", "lut", "vector_axis")
"""The parts of an encoded constant that say which weights survive, and by which its codes are read."""
_RECORD = struct.Struct("<IIQQ")
"""What a weight's 64-byte record begins with: sentinel, data type, bytes, offset of the data."""
_SENTINEL = 0xDEADBEEF
_SIZES = ("int16", "int32", "int64", "uint16", "uint32", "uint64", "bool")
"""Tensors of these are shapes and indices."""
_MODEL_PATH = "@model_path/"


def read(path: Path) -> Contents:
    """What is in a Core ML package, or in a model that is one file."""
    files = walk(path)
    models = [file for file in files if file.suffix == ".mlmodel"]
    if len(models) != 1:
        raise ValueError(f"it has {len(models)} .mlmodel files")
    package = _Package(models[0], {file for file in files if file != models[0]})
    model = list(fields(package.data))
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for field in model:
        if field.number == 2:
            inputs, outputs = list(package.interface(field, 1)), list(package.interface(field, 10))
        elif field.number == _PROGRAM:
            package.program(field)
        elif field.number in _NETWORKS:
            package.network(field)
    parts = list(package.ledger.parts("model"))
    for file, ledger in package.weights.items():
        parts += ledger.parts(f"records and padding of {file.name}")
    others = [file for file in files if file != models[0] and file not in package.weights]
    parts += [Part(GRAPH, file.name, file.stat().st_size) for file in others]
    return Contents(
        "Core ML", tuple(parts), tuple(inputs), tuple(outputs), dict(package.operators), opaque=package.opaque
    )


class _Package:
    def __init__(self, model: Path, beside: set[Path]) -> None:
        self.model, self.beside = model, beside
        self.ledger = Ledger(model)
        self.data = self.ledger.content
        self.weights: dict[Path, Ledger] = {}
        self.operators: Counter[str] = Counter()
        self.opaque: str | None = None

    def _each(self, field: Field, *numbers: int) -> Iterator[Field]:
        """The messages within a message that the field numbers lead to, from the outer one to the inner one."""
        if not numbers:
            yield field
            return
        for inner in fields(self.data, field.start, field.end):
            if inner.number == numbers[0]:
                yield from self._each(inner, *numbers[1:])

    def _text(self, field: Field, *numbers: int) -> str:
        return next((text(self.data, found) for found in self._each(field, *numbers)), "")

    def _number(self, field: Field, *numbers: int) -> int:
        return next((found.value for found in self._each(field, *numbers)), 0)

    def interface(self, description: Field, number: int) -> Iterator[Tensor]:
        for feature in self._each(description, number):
            name = self._text(feature, 1)
            for array in self._each(feature, 3, 5):
                shape: list[int] = []
                for sizes in self._each(array, 1):
                    packed = list(varints(self.data, sizes.start, sizes.end)) if not sizes.value else [sizes.value]
                    shape += packed
                yield Tensor(name, _ARRAYS.get(self._number(array, 2), "?"), tuple(shape))
            for image in self._each(feature, 3, 4):
                yield Tensor(name, "image", (self._number(image, 2), self._number(image, 1)))
            for kind, title in ((1, "int64"), (2, "float64"), (3, "string"), (6, "dictionary"), (7, "sequence")):
                for _ in self._each(feature, 3, kind):
                    yield Tensor(name, title, ())

    def network(self, network: Field) -> None:
        """Layers in the form before programs, each with its weights inside of it."""
        for layer in self._each(network, 1):
            self.ledger.claim(layer.start, layer.end - layer.start, VALUES, self._text(layer, 1))
            kind = next((field.number for field in fields(self.data, layer.start, layer.end) if field.number > 99), 0)
            self.operators[f"layer {kind}"] += 1
            self.opaque = "layers in the form before programs"

    def program(self, program: Field) -> None:
        for block in self._each(program, 2, 2, 3, 2):
            self._block(block)

    def _block(self, block: Field) -> None:
        for operation in self._each(block, 3):
            kind, name = self._text(operation, 1), self._text(operation, 3, 1)
            self.ledger.claim(operation.start, operation.end - operation.start, GRAPH, kind)
            if kind != "const":
                self.operators[kind] += 1
            for key, value in self._values(operation):
                for blob in self._each(value, 5):
                    self._weight(kind, key, name, value, blob)
            for inner in self._each(operation, 4):
                self._block(inner)

    def _values(self, operation: Field) -> Iterator[tuple[str, Field]]:
        """The constants that an operation itself states: attributes up to iOS 17, inputs from then on."""
        for entry in self._each(operation, 5):
            yield from ((self._text(entry, 1), value) for value in self._each(entry, 2))
        for entry in self._each(operation, 2):
            yield from ((self._text(entry, 1), value) for value in self._each(entry, 2, 1, 2))

    def _weight(self, kind: str, key: str, name: str, value: Field, blob: Field) -> None:
        ledger = self._weight_file(self._text(blob, 1))
        offset = self._number(blob, 2)
        if offset + _RECORD.size > len(ledger.content):
            raise ValueError(f"its weight file has no tensor at byte {offset}")
        sentinel, _, size, start = _RECORD.unpack_from(ledger.content, offset)
        if sentinel != _SENTINEL:
            raise ValueError(f"its weight file has no tensor at byte {offset}")
        storage = _TYPES.get(self._number(value, 2, 1, 1), "")
        if kind == "const":
            role = CONSTANT if storage in _SIZES else kind_of(self._number(value, 2, 1, 2))
        else:
            role = MASK if key in _MASKS else TABLE if key in _TABLES else VALUES
            storage = "" if "sparse" in kind and storage.startswith("uint") else storage  # codes of survivors
        ledger.claim(start, size, role, name, storage)

    def _weight_file(self, named: str) -> Ledger:
        file = self.model.parent / named.removeprefix(_MODEL_PATH)
        if file not in self.beside:
            message = f"{self.model} needs {named}, which holds its weights and is missing from its package"
            raise DwindleError(message, code="missing", path=self.model)
        if file not in self.weights:
            self.weights[file] = Ledger(file)
        return self.weights[file]
