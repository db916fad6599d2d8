"""Encoding values for a Core ML program: small ones go into the program itself, others into its weight file.

Formats: `mlmodel/format/MIL.proto` and `MILBlob/Blob/StorageFormat.hpp` in the coremltools repository.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.coreml.read import RECORD, SENTINEL, WEIGHTS

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Value, ValueType

LINE = 64
"""The alignment of the weight file in bytes, and the size of its header and of each blob's record."""
INLINE = 10
"""Tensors of fewer elements are written into the program itself."""
VECTOR_INLINE = 129
"""The same of vectors that nothing has to decode, such as biases: in the weight file one takes up to 150 bytes more,
for its record, the alignment, and the file's name and the offset in the program."""
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
    "uint1": (37, 9),
    "uint2": (36, 10),
    "uint3": (39, 12),
    "uint4": (35, 11),
}
"""For each element type that is written: its number in MIL.proto and in the records of the weight file.

A boolean is `uint1`, eight to a byte, the first in the lowest bits; of four bits there are two to a byte.
"""
_BITS = {"bool": 1, "int4": 4, "uint4": 4}
"""How many bits an element takes, for the types that take less than a byte."""


class Codes(NamedTuple):
    """Whole numbers of one, two or three bits, for which NumPy has no types."""

    values: NDArray[np.uint8]
    bits: int

    @property
    def kind(self) -> str:
        return f"uint{self.bits}"


class WeightFile:
    """Builds the content of weight.bin: a header, then for each blob a record and its data, each aligned to LINE."""

    def __init__(self) -> None:
        self._content = bytearray(LINE)
        self._blobs = 0

    def add(self, tensor: NDArray[Any] | Codes) -> int:
        """Appends a tensor, and returns the offset of its record, by which the program refers to it."""
        self._blobs += 1
        self._content += bytes(-len(self._content) % LINE)
        offset = len(self._content)
        if isinstance(tensor, Codes):
            kind, size, bits = tensor.kind, tensor.values.size, tensor.bits
        else:
            kind, size, bits = tensor.dtype.name, tensor.size, _BITS.get(tensor.dtype.name, 8)
        data = packed(tensor).tobytes() if isinstance(tensor, Codes) or bits < 8 else tensor.tobytes()
        record = RECORD.pack(SENTINEL, _TYPES[kind][1], len(data), offset + LINE, -size * bits % 8)
        self._content += record.ljust(LINE, b"\0") + data
        return offset

    def content(self) -> bytes:
        version = 2
        struct.pack_into("<II", self._content, 0, self._blobs, version)
        return bytes(self._content)


def packed(array: NDArray[Any] | Codes) -> NDArray[np.uint8]:
    """The bytes of booleans, of `Codes`, or of `ml_dtypes`' integers of four bits, the first in the lowest bits."""
    if isinstance(array, Codes):
        bits = np.unpackbits(array.values.reshape(-1, 1), axis=1, count=array.bits, bitorder="little")
        return np.packbits(bits, bitorder="little")
    if array.dtype == np.bool_:
        return np.packbits(array, bitorder="little")
    codes = array.reshape(-1).astype(np.int8).view(np.uint8) & 15
    low, high = np.pad(codes, (0, codes.size % 2)).reshape(-1, 2).T
    return np.asarray(low | high << 4)


def tensor_type(kind: str, shape: tuple[int, ...]) -> ValueType:
    """The protobuf that states a tensor's element type, by NumPy's name or that of `Codes`, and its shape."""
    from coremltools.proto.MIL_pb2 import ValueType

    made = ValueType()
    made.tensorType.dataType, _ = _TYPES[kind]
    made.tensorType.rank = len(shape)
    for size in shape:
        made.tensorType.dimensions.add().constant.size = size
    return made


def value(tensor: NDArray[Any] | Codes, file: WeightFile, inline: int = INLINE) -> Value:
    """The protobuf of a constant: with its values inside, where they are fewer than `inline`, or appended to the weight
    file."""
    from coremltools.proto.MIL_pb2 import Value

    kind, array = (tensor.kind, tensor.values) if isinstance(tensor, Codes) else (tensor.dtype.name, tensor)
    made = Value(type=tensor_type(kind, array.shape))
    if kind == "int32":
        made.immediateValue.tensor.ints.values.extend(array.reshape(-1).tolist())
    elif array.size < inline and kind == "float32":
        made.immediateValue.tensor.floats.values.extend(array.reshape(-1).tolist())
    elif array.size < inline and kind not in _BITS and not isinstance(tensor, Codes):
        made.immediateValue.tensor.bytes.values = array.tobytes()
    else:
        made.blobFileValue.fileName = f"@model_path/{WEIGHTS.removeprefix('Data/com.apple.CoreML/')}"
        made.blobFileValue.offset = file.add(tensor)
    return made
