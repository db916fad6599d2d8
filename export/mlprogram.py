"""Reading the weights of a Core ML package without Core ML: its protobuf and its weight file, by hand.

Only coremltools' generated protobuf classes are used, none of the code that wrote the file.
Formats: `mlmodel/format/MIL.proto` and `MILBlob/Blob/StorageFormat.hpp` in the coremltools repository.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export import bitmask
from dwindle.export.quiet import quiet

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block, Operation, Value
    from coremltools.proto.Model_pb2 import Model

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

SENTINEL = 0xDEADBEEF
RECORD = struct.Struct("<IIQQ")
"""What a blob's 64-byte record begins with: sentinel, data type, bytes, offset of the data."""

_NUMPY = {
    1: "?",
    10: "<f2",
    11: "<f4",
    12: "<f8",
    21: "i1",
    22: "<i2",
    23: "<i4",
    24: "<i8",
    31: "u1",
    32: "<u2",
    33: "<u4",
}
"""MIL.proto's DataType for the types that one array element holds."""


def weights(package: Path) -> dict[str, NDArray[Any]]:
    """Every numeric constant of a package's program, sparse ones decoded, by the name its operations read.

    Raises ValueError where the package is damaged or holds an encoding that dwindle doesn't write.
    """
    with quiet():
        from coremltools.proto.Model_pb2 import Model
    model = Model()
    try:
        model.ParseFromString((package / MODEL).read_bytes())
        file = package / WEIGHTS
        return constants(model, file.read_bytes() if file.exists() else b"")
    except Exception as error:
        raise ValueError(f"{package.name} cannot be read ({error})") from error


def constants(model: Model, blobs: bytes) -> dict[str, NDArray[Any]]:
    """What `weights` returns, for a model in memory and the content of its weight file."""
    found = {}
    for operation in operations(main_block(model)):
        name = operation.outputs[0].name
        attributes = operation.attributes
        if operation.type == "const" and _is_numeric(attributes["val"]):
            found[name] = _array(attributes["val"], blobs)
        elif operation.type == "constexpr_sparse_to_dense":
            mask, survivors, shape = (_array(attributes[key], blobs) for key in ("mask", "nonzero_data", "shape"))
            found[name] = bitmask.decode(mask, survivors, tuple(shape.tolist()))
        elif operation.type.startswith("constexpr_"):
            raise ValueError(f"{name} is encoded as {operation.type}")
    return found


def main_block(model: Model) -> Block:
    """The block of operations that a prediction runs."""
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def operations(block: Block) -> Iterator[Operation]:
    """The operations of a block and of the blocks inside its control flow."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def _is_numeric(value: Value) -> bool:
    return value.type.WhichOneof("type") == "tensorType" and value.type.tensorType.dataType in _NUMPY


def _array(value: Value, blobs: bytes) -> NDArray[Any]:
    tensor = value.type.tensorType
    dtype = np.dtype(_NUMPY[tensor.dataType])
    shape = tuple(dimension.constant.size for dimension in tensor.dimensions)
    if value.WhichOneof("value") == "blobFileValue":
        return _blob(blobs, value.blobFileValue.offset, dtype, shape)
    content = value.immediateValue.tensor
    field = content.WhichOneof("value")
    if field == "bytes":
        return np.frombuffer(content.bytes.values, dtype).reshape(shape)
    return np.array(getattr(content, field).values, dtype).reshape(shape)


def _blob(blobs: bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    sentinel, _, size, start = RECORD.unpack_from(blobs, offset)
    if sentinel != SENTINEL or size != math.prod(shape) * dtype.itemsize or start + size > len(blobs):
        raise ValueError(f"its weight file holds no tensor of shape {shape} at byte {offset}")
    return np.frombuffer(blobs, dtype, math.prod(shape), start).reshape(shape)
