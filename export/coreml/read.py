"""Reading the weights of a Core ML package without Core ML: its protobuf and its weight file, by hand.

Only coremltools' generated protobuf classes are used, none of the code that wrote the file.
Formats: `mlmodel/format/MIL.proto` and `MILBlob/Blob/StorageFormat.hpp` in the coremltools repository.
"""

from __future__ import annotations

import math
import struct
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.codes import bitmask
from dwindle.files import raw_bytes
from dwindle.manifest import Breakdown
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block, Operation, Value
    from coremltools.proto.Model_pb2 import Model

Array = NDArray[Any]

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"

SENTINEL = 0xDEADBEEF
RECORD = struct.Struct("<IIQQQ")
"""What a blob's 64-byte record begins with: sentinel, data type, bytes, offset of the data, unused bits at its end."""

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
    25: "i1",
    35: "u1",
    36: "u1",
    37: "?",
    39: "u1",
}
"""The NumPy type for each of MIL.proto's DataTypes that can be read."""
_FOUR_BITS = (25, 35)
"""MIL.proto's numbers of int4 and uint4, of which a byte holds two."""
_UINT1 = 37
"""MIL.proto's number of uint1, of which a byte holds eight."""
_BITS = {36: 2, _UINT1: 1, 39: 3}
"""How many bits a number takes, by MIL.proto's numbers of the types that take fewer than four."""


def weights(package: Path) -> dict[str, NDArray[Any]]:
    """Every numeric constant of a package's program, packed ones decoded, by the name its operations read.

    Raises ValueError where the package is damaged or has an encoding that dwindle does not write.
    """
    return read(package)[1]


def read(package: Path) -> tuple[Model, dict[str, NDArray[Any]]]:
    """A package's program, and its `weights`."""
    with _damage_named(package):
        model, blobs = _parsed(package)
        return model, constants(model, blobs)


_MASKS = ("mask", "data_mask", "indices_mask")
"""The parts of encoded constants that say which weights survive."""


def breakdown(package: Path) -> Breakdown:
    """What a package's bytes are spent on. Constants within the program count with the graph.

    Raises ValueError where the package is damaged.
    """
    mask = values = 0
    with _damage_named(package):
        model, blobs = _parsed(package)
        for operation in operations(main_block(model)):
            for key, value in _values(operation):
                if value.WhichOneof("value") == "blobFileValue":
                    size, _ = _record(blobs, value.blobFileValue.offset)
                    mask, values = (mask + size, values) if key in _MASKS else (mask, values + size)
        return Breakdown.of(raw_bytes(package), mask=mask, values=values, graph=(package / MODEL).stat().st_size)


@contextmanager
def _damage_named(package: Path) -> Iterator[None]:
    """Raises ValueError, with the package's name, for whatever a parser makes of a damaged one."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{package.name} cannot be read ({error})") from error


def _parsed(package: Path) -> tuple[Model, bytes]:
    """A package's program, and the content of its weight file."""
    with quiet():
        from coremltools.proto.Model_pb2 import Model
    model, file = Model(), package / WEIGHTS
    model.ParseFromString((package / MODEL).read_bytes())
    return model, file.read_bytes() if file.exists() else b""


def _values(operation: Operation) -> Iterator[tuple[str, Value]]:
    """The constants that an operation itself states: attributes up to iOS 17, inputs from then on."""
    yield from operation.attributes.items()
    for key, argument in operation.inputs.items():
        for binding in argument.arguments:
            if binding.HasField("value"):
                yield key, binding.value


def constants(model: Model, blobs: bytes) -> dict[str, NDArray[Any]]:
    """What `weights` returns, for a model in memory and the content of its weight file."""
    found: dict[str, Array] = {}
    between: dict[str, Array] = {}
    made = ChainMap(between, found)
    for operation in operations(main_block(model)):
        name = operation.outputs[0].name
        if operation.type == "const" and _is_numeric(operation.attributes["val"]):
            found[name] = _array(operation.attributes["val"], blobs)
        elif operation.type in _DECODERS:
            parts = {key: part for key, part in _parts(operation, blobs, made).items() if key != "name"}
            *before, last = _DECODERS[operation.type](**parts)
            if before:  # only another operation reads what a sparse one makes
                between |= dict(zip((output.name for output in operation.outputs), (*before, last), strict=True))
            else:
                found[name] = last
        elif operation.type.startswith("constexpr_"):
            raise ValueError(f"{name} is encoded as {operation.type}")
    return found


def _parts(operation: Operation, blobs: bytes, made: Mapping[str, Array]) -> dict[str, Array]:
    """What an operation decodes: attributes up to iOS 17, inputs from then on."""
    parts = {key: _array(value, blobs) for key, value in operation.attributes.items() if _is_numeric(value)}
    for key, argument in operation.inputs.items():
        (binding,) = argument.arguments
        parts[key] = made[binding.name] if binding.name else _array(binding.value, blobs)
    return parts


def _sparse_to_dense(mask: Array, nonzero_data: Array, shape: Array | None = None) -> tuple[Array]:
    if shape is not None:
        return (bitmask.decode(mask, nonzero_data, tuple(shape.tolist())),)
    return (bitmask.decode(np.packbits(mask, bitorder="little"), nonzero_data, mask.shape),)


def _sparse_codes(data_mask: Array, nonzero_data: Array, scale: Array) -> tuple[Array, Array]:
    if nonzero_data.size != np.count_nonzero(data_mask):
        raise ValueError(f"the mask keeps {np.count_nonzero(data_mask)} weights, there are {nonzero_data.size}")
    return data_mask, nonzero_data.astype(scale.dtype) * _spread(scale, data_mask.shape)[data_mask]


def _scaled(data: Array, scale: Array) -> tuple[Array]:
    return (data.astype(scale.dtype) * _spread(scale, data.shape),)


def _spread(scale: Array, shape: tuple[int, ...]) -> Array:
    """A scale for each element: along every axis of `shape` there is one for each block of equal size."""
    for axis, (size, blocks) in enumerate(zip(shape, scale.shape, strict=True)):
        scale = scale.repeat(size // blocks, axis)
    if scale.shape != shape:
        raise ValueError(f"scales for {scale.shape} are not for a tensor of shape {shape}")
    return scale


def _lut_to_sparse(indices_mask: Array, indices_nonzero_data: Array, lut: Array) -> tuple[Array, Array]:
    if indices_nonzero_data.size != np.count_nonzero(indices_mask):
        kept = np.count_nonzero(indices_mask)
        raise ValueError(f"the mask keeps {kept} weights, there are {indices_nonzero_data.size}")
    return indices_mask, _palettes(lut, 1)[0][indices_nonzero_data.astype(np.uint8)]


def _lut_to_dense(indices: Array, lut: Array, shape: Array | None = None) -> tuple[Array]:
    if shape is not None:  # up to iOS 17, in bytes of two
        sizes = tuple(shape.tolist())
        return (lut[_four_bits(indices, math.prod(sizes), np.dtype(np.uint8)).reshape(sizes)],)
    rows = _palettes(lut, len(indices))
    return (np.take_along_axis(rows, indices.reshape(len(rows), -1).astype(np.uint8), 1).reshape(indices.shape),)


def _palettes(lut: Array, rows: int) -> Array:
    """One for all of a tensor, or one for each of its rows."""
    if lut.shape[0] not in (1, rows) or lut.size != lut.shape[0] * lut.shape[-2]:
        raise ValueError(f"it has palettes of shape {lut.shape}")
    return lut.reshape(lut.shape[0], lut.shape[-2])


def _affine(quantized_data: Array, scale: Array, zero_point: Array, axis: Array) -> tuple[Array]:
    along = [-1 if dimension == axis else 1 for dimension in range(quantized_data.ndim)]
    steps = quantized_data.astype(scale.dtype) - zero_point.astype(scale.dtype).reshape(along)
    return (steps * scale.reshape(along),)


_DECODERS: dict[str, Callable[..., tuple[Array, ...]]] = {
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_sparse_blockwise_shift_scale": _sparse_codes,
    "constexpr_blockwise_shift_scale": _scaled,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_affine_dequantize": _affine,
}


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
        if each := _BITS.get(tensor.dataType):
            count = math.prod(shape) * each
            packed = _blob(blobs, value.blobFileValue.offset, np.dtype(np.uint8), (-(-count // 8),))
            bits = np.unpackbits(packed, bitorder="little", count=count).reshape(-1, each)
            return np.packbits(bits, axis=1, bitorder="little").astype(dtype).reshape(shape)
        if tensor.dataType in _FOUR_BITS:
            two = _blob(blobs, value.blobFileValue.offset, np.dtype(np.uint8), (-(-math.prod(shape) // 2),))
            return _four_bits(two, math.prod(shape), dtype).reshape(shape)
        return _blob(blobs, value.blobFileValue.offset, dtype, shape)
    content = value.immediateValue.tensor
    field = content.WhichOneof("value")
    if field == "bytes":
        return np.frombuffer(content.bytes.values, dtype).reshape(shape)
    return np.array(getattr(content, field).values, dtype).reshape(shape)


def _four_bits(packed: Array, count: int, dtype: np.dtype[Any]) -> Array:
    if packed.size != -(-count // 2):
        raise ValueError(f"{packed.size} bytes are not {count} numbers of four bits")
    codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[:count]
    if dtype == np.uint8:
        return codes
    return np.asarray((codes ^ 8).astype(np.int8) - np.int8(8))  # the sign is the highest bit


def _blob(blobs: bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size, start = _record(blobs, offset)
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its weight file has no tensor of shape {shape} at byte {offset}")
    return np.frombuffer(blobs, dtype, math.prod(shape), start).reshape(shape)


def _record(blobs: bytes, offset: int) -> tuple[int, int]:
    """The bytes of a tensor in the weight file, and where they start, from the record at `offset`."""
    sentinel, _, size, start, _ = RECORD.unpack_from(blobs, offset)
    if sentinel != SENTINEL or start + size > len(blobs):
        raise ValueError(f"its weight file has no tensor at byte {offset}")
    return size, start
