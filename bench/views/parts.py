"""What an exported file's bytes are spent on, read from the file as its format has it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.files import raw_bytes, walk

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Parts:
    """Bytes; they add up to the installed file's."""

    mask: int
    """Which weights survive, in whatever code."""
    values: int
    """The weights' values."""
    graph: int
    """Operators, their wiring and names, and the functions that unpack weights."""
    rest: int
    """Biases, shapes, tables of contents, padding."""


def parts(target: str, path: Path) -> Parts | None:
    """An exported file's parts; None for a format that isn't known here, or not in this version of it."""
    read = {"onnx": _onnx, "coreml": _coreml, "executorch": _executorch, "litert": _litert}.get(target)
    if read is None:
        return None
    try:
        mask, values, graph = read(path)
    except Exception:  # a file that its manifest vouches for, of a layout that came later
        return None
    rest = raw_bytes(path) - mask - values - graph
    return Parts(mask, values, graph, rest) if rest >= 0 else None


_OF_VALUES = ("Nibbles", "Scales")
"""Functions that read bytes which belong to values: two codes of four bits, the place of a scale."""


def _onnx(path: Path) -> tuple[int, int, int]:
    """Packed tensors are read by calls of the model's own functions: codes of the mask as uint8, values as they are."""
    import onnx

    model = onnx.load(path)
    calls = [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    packed = {name for node in calls for name in node.input}
    whole = {name for node in calls if node.op_type in _OF_VALUES for name in node.input}
    mask = values = stored = 0
    for tensor in model.graph.initializer:
        stored += tensor.ByteSize()
        size = _data(tensor)
        if tensor.name in packed - whole and tensor.data_type == onnx.TensorProto.UINT8:
            mask += size
        elif tensor.data_type != onnx.TensorProto.INT64 and (tensor.name in packed or len(tensor.dims) > 1):
            values += size
    return mask, values, model.ByteSize() - stored


def _data(tensor: onnx.TensorProto) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    return len(tensor.raw_data) or int(math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


_SENTINEL = 0xDEADBEEF
_BITS = (3, 9)
"""Blobs of uint8 and of uint1: a mask up to iOS 17, and from iOS 18. Values are float16 or int8."""


def _coreml(path: Path) -> tuple[int, int, int]:
    """The weight file's blobs, each with a record before it (coremltools, MILBlob/Blob/StorageFormat.hpp). The program
    is the graph."""
    mask = values = graph = 0
    for file in walk(path):
        if file.suffix == ".mlmodel":
            graph += file.stat().st_size
        elif file.name == "weight.bin":
            content = file.read_bytes()
            (count,) = struct.unpack_from("<I", content)
            record = 64
            for _ in range(count):
                sentinel, kind, size, start = struct.unpack_from("<IIQQ", content, record)
                if sentinel != _SENTINEL:
                    raise ValueError("no record where one was to be")
                mask += size if kind in _BITS else 0
                values += size if kind not in _BITS else 0
                record = (start + size + 63) // 64 * 64
    return mask, values, graph


def _executorch(path: Path) -> tuple[int, int, int]:
    """The program, then segments (executorch, runtime/executor/program.cpp and schema/extended_header.h): among them
    XNNPACK's graphs, each with a header of its own (backends/xnnpack/runtime/XNNHeader.h); the rest is weights."""
    content = path.read_bytes()
    if content[8:12] != b"eh00":
        raise ValueError("no extended header")
    graphs, (program, start, segments) = 0, struct.unpack_from("<QQQ", content, 16)
    at = content.find(b"XH00", start)
    while at >= 0:
        offset, size = struct.unpack_from("<II", content, at + 6)
        graphs += offset + size
        at = content.find(b"XH00", at + 4)
    return 0, segments - graphs, program + graphs


def _litert(path: Path) -> tuple[int, int, int]:
    """Buffers hold weights and other constants; a sparse tensor's rows and places lie in the graph (schema.fbs)."""
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError("no LiteRT file")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    sizes = [0 if buffer.data is None else len(buffer.data) for buffer in model.buffers]
    mask = values = 0
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.shape is not None and len(tensor.shape) > 1:
            values += sizes[tensor.buffer]
        for dimension in tensor.sparsity.dimMetadata if tensor.sparsity else ():
            lists = (dimension.arraySegments, dimension.arrayIndices)
            mask += sum(vector.values.nbytes for vector in lists if vector is not None)
    return mask, values, len(content) - sum(sizes) - mask
