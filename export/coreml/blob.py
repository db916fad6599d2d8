"""Encoding values for a Core ML program: small ones go into the program itself, others into its weight file.

Formats: `mlmodel/format/MIL.proto` and `MILBlob/Blob/StorageFormat.hpp` in the coremltools repository.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.coreml.read import RECORD, SENTINEL, WEIGHTS

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Value, ValueType

LINE = 64
"""The alignment of the weight file in bytes, and the size of its header and of each blob's record."""
INLINE = 10
"""Tensors of fewer elements are written into the program itself."""
_TYPES = {
    "float16": (10, 1),
    "float32": (11, 2),
    "int8": (21, 4),
    "uint8": (31, 3),
    "int16": (22, 6),
    "uint16": (32, 7),
    "uint32": (33, 0),
    "bool": (37, 9),
    "int32": (23, 0),
    "int4": (25, 8),
    "uint4": (35, 11),
}
"""For each element type that is written: its number in MIL.proto and in the records of the weight file.

A boolean is `uint1`, eight to a byte, the first in the lowest bits; of four bits there are two to a byte.
"""
_BITS = {"bool": 1, "int4": 4, "uint4": 4}
"""How many bits an element takes, for the types that take less than a byte."""


class WeightFile:
    """Builds the content of weight.bin: a header, then for each blob a record and its data, each aligned to LINE."""

    def __init__(self) -> None:
        self._content = bytearray(LINE)
        self._blobs = 0

    def add(self, array: NDArray[Any]) -> int:
        """Appends a tensor, and returns the offset of its record, by which the program refers to it."""
        self._blobs += 1
        self._content += bytes(-len(self._content) % LINE)
        offset = len(self._content)
        data = (packed(array) if array.dtype.name in _BITS else array).tobytes()
        unused = -array.size * _BITS.get(array.dtype.name, 8) % 8
        record = RECORD.pack(SENTINEL, _TYPES[array.dtype.name][1], len(data), offset + LINE, unused)
        self._content += record.ljust(LINE, b"\0") + data
        return offset

    def content(self) -> bytes:
        version = 2
        struct.pack_into("<II", self._content, 0, self._blobs, version)
        return bytes(self._content)


def packed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of booleans, or of `ml_dtypes`' integers of four bits, the first in the lowest bits."""
    if array.dtype == np.bool_:
        return np.packbits(array, bitorder="little")
    codes = array.reshape(-1).astype(np.int8).view(np.uint8) & 15
    low, high = np.pad(codes, (0, codes.size % 2)).reshape(-1, 2).T
    return np.asarray(low | high << 4)


def tensor_type(dtype: np.dtype[Any], shape: tuple[int, ...]) -> ValueType:
    """The protobuf that states a tensor's element type and shape."""
    from coremltools.proto.MIL_pb2 import ValueType

    made = ValueType()
    made.tensorType.dataType, _ = _TYPES[dtype.name]
    made.tensorType.rank = len(shape)
    for size in shape:
        made.tensorType.dimensions.add().constant.size = size
    return made


def value(array: NDArray[Any], file: WeightFile) -> Value:
    """The protobuf of a constant: with its values inside, or appended to the weight file."""
    from coremltools.proto.MIL_pb2 import Value

    made = Value(type=tensor_type(array.dtype, array.shape))
    if array.dtype == np.int32:
        made.immediateValue.tensor.ints.values.extend(array.reshape(-1).tolist())
    elif array.size < INLINE and array.dtype == np.float32:
        made.immediateValue.tensor.floats.values.extend(array.reshape(-1).tolist())
    elif array.size < INLINE and array.dtype.name not in _BITS:
        made.immediateValue.tensor.bytes.values = array.tobytes()
    else:
        made.blobFileValue.fileName = f"@model_path/{WEIGHTS.removeprefix('Data/com.apple.CoreML/')}"
        made.blobFileValue.offset = file.add(array)
    return made
