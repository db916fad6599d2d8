"""A .tflite file's constants: read out, and written anew, dense or sparse, in fp32 or fp16.

Only the classes that ai-edge-litert generated from the format's schema are used (schema.fbs, in the LiteRT repository).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.litert import sparse
from dwindle.export.litert.sparse import Sparse
from dwindle.manifest import Breakdown

Array = NDArray[Any]
Model = Any
"""The schema's ModelT: generated classes, without types."""

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Of a buffer's bytes, which are read in place: `force_align` in the schema."""
_TYPES = {"float32": 0, "float16": 1}
"""The schema's TensorType of what weights are stored in."""
_VECTORS = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}
_TABLES = 300
"""Bytes that a sparse tensor's tables and the operation that unpacks it take, about."""


class Place(NamedTuple):
    """A constant: which tensor of which subgraph."""

    graph: int
    tensor: int


def parse(content: bytes) -> Model:
    """A file's tables, as the schema has them, with the data of buffers that lie behind the tables, as in files of a
    megabyte or more; raises ValueError for what is not a LiteRT file."""
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != _IDENTIFIER:
        raise ValueError("it is not a LiteRT file")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers or []:
        if buffer.data is None and buffer.offset > 1:  # 1 stands for a place that is not known yet
            if buffer.offset + buffer.size > len(content):
                raise ValueError("a buffer reaches past its end")
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def serialize(model: Model) -> bytes:
    """The file, with no more buffers than are used, which `model` is left with too."""
    import flatbuffers

    users = [tensor for graph in model.subgraphs for tensor in graph.tensors] + list(model.metadata or [])
    used = sorted({0} | {user.buffer for user in users})  # 0 is the empty one
    model.buffers = [_Aligned(_bytes(model.buffers[index])) for index in used]
    places = {index: place for place, index in enumerate(used)}
    for user in users:
        user.buffer = places[user.buffer]
    builder = flatbuffers.Builder(1024 + sum(len(buffer.data) + 64 for buffer in model.buffers))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _bytes(buffer: Any) -> bytes:
    return b"" if buffer.data is None else bytes(buffer.data)


class _Aligned:
    """A BufferT whose bytes are aligned: the generated class does not see to it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802  as the generated classes have it
        from ai_edge_litert import schema_py_generated as schema

        if self.data:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            data = builder.EndVector()
        schema.BufferStart(builder)
        if self.data:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def constants(model: Model) -> dict[Place, tuple[str, Array]]:
    """Every float tensor that the file holds the values of, by its place: its name, and the values, dense."""
    found = {}
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            data = _bytes(model.buffers[tensor.buffer])
            if not data or tensor.type not in _TYPES.values():
                continue
            dtype = next(name for name, code in _TYPES.items() if code == tensor.type)
            values = np.frombuffer(data, dtype)
            shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
            array = sparse.decode(_form(tensor, shape, values)) if tensor.sparsity else values.reshape(shape)
            found[Place(number, index)] = ((tensor.name or b"").decode(), array)
    return found


def described(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file, with an entry of its metadata for each of these texts."""
    from ai_edge_litert import schema_py_generated as schema

    if not metadata:
        return content
    model = parse(content)
    model.metadata = list(model.metadata or [])
    for key, text in metadata.items():
        model.metadata.append(schema.MetadataT(name=key, buffer=len(model.buffers)))
        model.buffers.append(_Aligned(text.encode()))
    return serialize(model)


def breakdown(content: bytes) -> Breakdown:
    """What a file's bytes are spent on. The mask is the rows and places of sparse tensors, values are those of
    tensors of two dimensions or more. Raises ValueError for what is not such a file."""
    model = parse(content)
    sizes = [len(_bytes(buffer)) for buffer in model.buffers]
    mask = values = 0
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.shape is not None and len(tensor.shape) > 1:
            values += sizes[tensor.buffer]
        for dimension in tensor.sparsity.dimMetadata if tensor.sparsity else ():
            lists = (dimension.arraySegments, dimension.arrayIndices)
            mask += sum(vector.values.nbytes for vector in lists if vector is not None)
    return Breakdown.of(len(content), mask=mask, values=values, graph=len(content) - sum(sizes) - mask)


def put(model: Model, place: Place, name: str, array: Array, *, pack: bool) -> bool:
    """Gives a constant other values and a name; fp16 ones are widened by an operation of the file's own.

    pack: sparse, where that takes fewer bytes. Returns whether it did.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[place.graph]
    result = graph.tensors[place.tensor]
    form = sparse.encode(array) if pack and array.ndim > 1 else None
    if form is not None and form.nbytes + _TABLES >= array.nbytes:
        form = None
    unpacking = ["DENSIFY"] * (form is not None) + ["DEQUANTIZE"] * (array.dtype == np.float16)
    chain = [*(_like(result, _TYPES[array.dtype.name]) for _ in unpacking), result]
    places = [*range(len(graph.tensors), len(graph.tensors) + len(unpacking)), place.tensor]
    graph.tensors.extend(chain[:-1])
    for step, kind in enumerate(unpacking):
        operation = schema.OperatorT(opcodeIndex=_code(model, kind))
        operation.inputs, operation.outputs = places[step : step + 1], places[step + 1 : step + 2]
        graph.operators.insert(step, operation)
    source = chain[0]
    result.buffer, source.name = 0, name
    source.buffer = len(model.buffers)
    values = array if form is None else form.values
    model.buffers.append(_Aligned(values.tobytes()))
    if form is not None:
        source.sparsity = _tables(form)
    return form is not None


def _like(tensor: Any, kind: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.TensorT(shape=tensor.shape, hasRank=tensor.hasRank, type=kind)


def _code(model: Model, kind: str) -> int:
    """The place of an operation among those that the file uses."""
    from ai_edge_litert import schema_py_generated as schema

    number = getattr(schema.BuiltinOperator, kind)
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == number:
            return index
    # deprecatedBuiltinCode is what runtimes before 2020 read; it ends at 127
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=_VERSIONS[kind])
    )
    return len(model.operatorCodes) - 1


_VERSIONS = {"DENSIFY": 1, "DEQUANTIZE": 3}
"""Of the operations as they are used here: DEQUANTIZE takes fp16 from its third on."""


def _tables(form: Sparse) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    def vector(numbers: Array) -> tuple[int, Any]:
        kind = _VECTORS[numbers.dtype.name]
        return getattr(schema.SparseIndexVector, kind), getattr(schema, f"{kind}T")(numbers)

    dense = schema.DimensionType.DENSE
    dimensions = [schema.DimensionMetadataT(format=dense, denseSize=form.shape[axis]) for axis in form.order[:-1]]
    last = schema.DimensionMetadataT(format=schema.DimensionType.SPARSE_CSR)
    last.arraySegmentsType, last.arraySegments = vector(form.segments)
    last.arrayIndicesType, last.arrayIndices = vector(form.indices)
    return schema.SparsityParametersT(traversalOrder=list(form.order), dimMetadata=[*dimensions, last])


def _form(tensor: Any, shape: tuple[int, ...], values: Array) -> Sparse:
    """A sparse tensor as the file has it; raises ValueError for another kind than `put` writes."""
    tables = tensor.sparsity
    *dense, last = tables.dimMetadata
    if tables.blockMap is not None or any(dimension.format for dimension in dense) or not last.format:
        raise ValueError("it has a kind of sparse tensor that dwindle does not write")
    segments, indices = (np.asarray(vector.values) for vector in (last.arraySegments, last.arrayIndices))
    return Sparse(shape, tuple(int(axis) for axis in tables.traversalOrder), values, segments, indices)
