"""Writing a Core ML package: a program's constants laid down anew, each in the form that takes fewer bytes.

Forms and layout are coremltools' own, byte for byte: a plain `const`, or `constexpr_sparse_to_dense` (a bit
mask and its survivors, from iOS 16), with tensors of ten elements and more in a weight file of 64-byte lines.
Formats: `mlmodel/format/MIL.proto` and `MILBlob/Blob/StorageFormat.hpp` in the coremltools repository.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export import bitmask
from dwindle.export.mlprogram import MODEL, RECORD, SENTINEL, WEIGHTS, main_block, operations

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Operation, Value
    from coremltools.proto.Model_pb2 import Model

_LINE = 64
"""Alignment of the weight file, and the size of its header and of each blob's record."""
_INLINE = 10
"""Tensors of fewer elements lie in the program itself."""
_TYPES = {"<f2": (10, 1), "<f4": (11, 2), "|i1": (21, 4), "|u1": (31, 3), "<u4": (33, 0)}
"""For each element type that is written: its number in MIL.proto and in the records of the weight file."""
_STRING = 2


def package(model: Model, weights: Mapping[str, NDArray[Any]], *, pack: bool) -> dict[str, bytes]:
    """The files of an .mlpackage, by their paths in it: `model` with these constants, by output name.

    Without `pack` each of them is a plain one.
    """
    filled = type(model)()
    filled.CopyFrom(model)
    file = _WeightFile()
    for operation in operations(main_block(filled)):
        name = operation.outputs[0].name
        if name in weights:
            form = _smallest(name, weights[name]) if pack else _plain(weights[name])
            operation.CopyFrom(_constant(name, weights[name], form, file))
    return {
        "Manifest.json": json.dumps(_manifest()).encode(),
        MODEL: filled.SerializeToString(deterministic=True),
        WEIGHTS: file.content(),
    }


class _Form(NamedTuple):
    kind: str
    """The operation that makes the tensor."""
    attributes: dict[str, NDArray[Any]]


def _plain(array: NDArray[Any]) -> _Form:
    return _Form("const", {"val": array})


def _sparse(array: NDArray[Any]) -> _Form:
    mask, survivors = bitmask.encode(array)
    if not survivors.size:
        # A tensor without elements is legal on paper only: let the first zero survive.
        mask[0], survivors = 1, np.zeros(1, array.dtype)
    shape = np.array(array.shape, np.uint32)
    return _Form("constexpr_sparse_to_dense", {"nonzero_data": survivors, "mask": mask, "shape": shape})


def _smallest(name: str, array: NDArray[Any]) -> _Form:
    def cost(form: _Form) -> int:
        scratch = _WeightFile()
        in_program: int = _constant(name, array, form, scratch).ByteSize()
        return in_program + len(scratch.content())

    sparse = [_sparse(array)] if array.dtype == np.float16 and array.size >= _INLINE else []
    return min((_plain(array), *sparse), key=cost)


def _constant(name: str, array: NDArray[Any], form: _Form, file: _WeightFile) -> Operation:
    from coremltools.proto.MIL_pb2 import Operation

    operation = Operation(type=form.kind)
    operation.outputs.add(name=name).type.CopyFrom(_value(array, _WeightFile()).type)
    for key, held in form.attributes.items():
        operation.attributes[key].CopyFrom(_value(held, file))
    label = operation.attributes["name"]
    label.type.tensorType.dataType = _STRING
    label.immediateValue.tensor.strings.values.append(name)
    return operation


def _value(array: NDArray[Any], file: _WeightFile) -> Value:
    from coremltools.proto.MIL_pb2 import Value

    value = Value()
    tensor = value.type.tensorType
    tensor.dataType, _ = _TYPES[array.dtype.str]
    tensor.rank = array.ndim
    for size in array.shape:
        tensor.dimensions.add().constant.size = size
    if array.size < _INLINE and array.dtype != np.float32:
        value.immediateValue.tensor.bytes.values = array.tobytes()
    else:
        value.blobFileValue.fileName = f"@model_path/{WEIGHTS.removeprefix('Data/com.apple.CoreML/')}"
        value.blobFileValue.offset = file.add(array)
    return value


class _WeightFile:
    """weight.bin as it grows: a header, then for each blob a record and its data, each at the start of a line."""

    def __init__(self) -> None:
        self._content = bytearray(_LINE)
        self._blobs = 0

    def add(self, array: NDArray[Any]) -> int:
        """Appends a tensor; the offset of its record, by which the program refers to it."""
        self._blobs += 1
        self._content += bytes(-len(self._content) % _LINE)
        offset = len(self._content)
        data = array.tobytes()
        record = RECORD.pack(SENTINEL, _TYPES[array.dtype.str][1], len(data), offset + _LINE)
        self._content += record.ljust(_LINE, b"\0") + data
        return offset

    def content(self) -> bytes:
        version = 2
        struct.pack_into("<II", self._content, 0, self._blobs, version)
        return bytes(self._content)


def _manifest() -> dict[str, Any]:
    """Paths are below Data/. Identifiers need only differ: fixed ones make equal exports equal."""
    model, weights = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    author = {"author": "com.apple.CoreML"}
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            model: {
                **author,
                "description": "CoreML Model Specification",
                "name": "model.mlmodel",
                "path": MODEL.removeprefix("Data/"),
            },
            weights: {
                **author,
                "description": "CoreML Model Weights",
                "name": "weights",
                "path": WEIGHTS.removeprefix("Data/").rpartition("/")[0],
            },
        },
        "rootModelIdentifier": model,
    }
