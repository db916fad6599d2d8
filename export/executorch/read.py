"""Reading the weights of a .pte file: the filter and bias of every layer that it delegates to XNNPACK, and int8 tables
of embeddings, which it looks up itself.

A .pte has no names for them. It has debug handles, which number the calls of the traced network in their order, so that
its layers can be matched with those of the network one by one. Formats: `exir/schema.py` and
`backends/xnnpack/serialization/schema.fbs` in ExecuTorch.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.executorch.called import called
from dwindle.manifest import Breakdown
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]

_KINDS = {
    "XNNConv2d": "conv",
    "XNNDepthwiseConv2d": "conv",
    "XNNConvTranspose2d": "transposed",
    "XNNFullyConnected": "linear",
}
_NUMPY = {
    "xnn_datatype_fp32": "<f4",
    "xnn_datatype_qcint8": "i1",
    "xnn_datatype_qcint32": "<i4",
}
_NONE = 2**32 - 1
"""XNNPACK's id of an absent value."""
_TRANSPOSED = 1
"""XNNPACK's flag of a linear layer whose weight has its inputs first."""


class Layer(NamedTuple):
    """A convolution, linear layer or table of a file, its tensors in PyTorch's layout and decoded to fp32."""

    place: int
    """Its debug handle: later layers have larger ones."""
    kind: str
    weight: Array
    bias: Array | None


def weights(path: Path, network: nn.Module) -> dict[str, Array]:
    """The weights and biases in a .pte, by their names in the network that was written.

    Layers that were not delegated to XNNPACK are not among them, nor are others of their kind and shape, as nothing
    then tells which is which. Raises ValueError where the file is damaged or in a form that dwindle does not write.
    """
    with _damage_named(path):
        inputs, graphs = _graphs(file := _parsed(path.read_bytes()))
        found = sorted((layer for graph, data in graphs for layer in _layers(graph, data)), key=lambda one: one.place)
        found += _tables(file.program)
    in_file, in_network = defaultdict(list), defaultdict(list)
    for layer in found:
        in_file[layer.kind, _core(layer.weight.shape)].append(layer)
    for call in called(network, inputs):
        in_network[call.kind, _core(call.shape)].append(call)
    copies: dict[str, list[Array]] = defaultdict(list)
    for key, calls in in_network.items():
        if len(calls) == len(in_file[key]):
            for call, layer in zip(calls, in_file[key], strict=True):
                if call.weight:
                    values = layer.weight.reshape(call.shape)
                    copies[call.weight].append(values.T if call.turned else values)
                if call.bias and layer.bias is not None:
                    copies[call.bias].append(layer.bias)
    # Layers may share a tensor, of which each then has a copy; biases that were rounded apart are no one tensor.
    return {name: first for name, (first, *more) in copies.items() if all(np.array_equal(first, own) for own in more)}


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without dimensions of one: XNNPACK's convolutions are all of two dimensions."""
    return tuple(size for size in shape if size > 1)


def breakdown(path: Path) -> Breakdown:
    """What a .pte's bytes are spent on: values are all constants, and the graph is the program and XNNPACK's graphs.

    Raises ValueError where the file is damaged.
    """
    with _damage_named(path):
        content = path.read_bytes()
        file = _parsed(content)
        with quiet():
            from executorch.exir._serialize._program import _get_extended_header
        header = _get_extended_header(content)
        values = sum(len(bytes(buffer)) for buffer in (file.named_data.buffers if file.named_data else []))
        graph = header.program_size if header else len(content)
        if header:  # what XNNPACK was given lies after the program, as constants do
            graph += sum(len(bytes(data.data)) for data in file.program.backend_delegate_data)
            values += sum(len(bytes(buffer.storage)) for buffer in file.program.constant_buffer)
        return Breakdown.of(len(content), mask=0, values=values, graph=graph)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Raises ValueError, with the file's name, for whatever the parsers make of a damaged one: they assert, or read
    beyond its end."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path.name} is not a .pte file that dwindle can read ({error})") from error


def _parsed(content: bytes) -> Any:
    """A file as ExecuTorch's own parser has it: `program` and `named_data`."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        return deserialize_pte_binary(content)


def _graphs(file: Any) -> tuple[tuple[Tensor, ...], list[tuple[dict[str, Any], Callable[[int], bytes]]]]:
    """Zeros in the shapes of a file's inputs; for each part delegated to XNNPACK, its graph and a function that reads
    its constants."""
    import torch

    with quiet():
        from executorch.exir.tensor import get_scalar_type

    (plan,) = file.program.execution_plan
    given = [plan.values[index].val for index in plan.inputs]
    inputs = tuple(torch.zeros(tensor.sizes, dtype=get_scalar_type(tensor.scalar_type)) for tensor in given)
    graphs = []
    for delegate in plan.delegates:
        if delegate.id == "XnnpackBackend":
            graph = _graph(bytes(file.program.backend_delegate_data[delegate.processed.index].data))
            graphs.append((graph, _reader(graph, file.named_data)))
    return inputs, graphs


def _reader(graph: dict[str, Any], named: Any) -> Callable[[int], bytes]:
    def constant(index: int) -> bytes:
        where = graph["constant_data"][index]
        return bytes(named.buffers[named.pte_data[where["named_key"]].buffer_index])[: where["size"]]

    return constant


def _graph(delegate: bytes) -> dict[str, Any]:
    """XNNPACK's graph as its schema has it, by ExecuTorch's own flatbuffer compiler."""
    with quiet():
        from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
        from executorch.exir._serialize import _flatbuffer

    header = xnnpack.XNNHeader.from_bytes(delegate[: xnnpack.XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(xnnpack._get_schema_bytes())
        binary.write_bytes(delegate[header.flatbuffer_offset :][: header.flatbuffer_size])
        _flatbuffer._flatc_decompile(folder, str(schema), str(binary))
        # A bound that an activation doesn't have is `inf`, which is no JSON.
        text = re.sub(r'(?<=": )(-?)inf\b', r"\1Infinity", binary.with_suffix(".json").read_text(encoding="utf-8"))
    graph: dict[str, Any] = json.loads(text)
    return graph


def _layers(graph: dict[str, Any], constant: Callable[[int], bytes]) -> Iterator[Layer]:
    values = {}
    for entry in graph["xvalues"]:
        value = entry["xvalue_union"]
        tensor = value.get("tensor_value", value)
        values[tensor["id_out"]] = (tensor, value.get("quant_params"))
    for node in graph["xnodes"]:
        kind, call = node["xnode_union_type"], node["xnode_union"]
        if kind in _KINDS and values[call["filter_id"]][0]["constant_buffer_idx"]:
            filters = _decoded(*values[call["filter_id"]], constant)
            turned = kind == "XNNFullyConnected" and call.get("flags", 0) & _TRANSPOSED
            weight = filters.T if turned else _as_in_torch(kind, filters, call.get("groups", 1))
            bias = None if call["bias_id"] == _NONE else _decoded(*values[call["bias_id"]], constant)
            yield Layer(node["debug_handle"], _KINDS[kind], weight, bias)


def _tables(program: Any) -> Iterator[Layer]:
    """The int8 tables that a program looks rows up in, in the order of its calls: of codes, then of their scales."""
    (plan,) = program.execution_plan
    codes: Array | None = None
    for place, instruction in enumerate(instruction for chain in plan.chains for instruction in chain.instructions):
        call = instruction.instr_args
        if not hasattr(call, "op_index") or plan.operators[call.op_index].name != "aten::embedding":
            continue
        tensor = plan.values[call.args[0]].val
        content, count = bytes(program.constant_buffer[tensor.data_buffer_idx].storage), math.prod(tensor.sizes)
        if tensor.scalar_type.name == "CHAR":
            codes = np.frombuffer(content, "i1", count).reshape(tensor.sizes)
        elif codes is not None and list(tensor.sizes) == [len(codes), 1]:
            scales = np.frombuffer(content, "<f4", count).reshape(tensor.sizes)
            yield Layer(place, "embedding", codes.astype(np.float32) * scales, None)
            codes = None


def _decoded(tensor: dict[str, Any], scales: dict[str, Any] | None, constant: Callable[[int], bytes]) -> Array:
    """A constant as XNNPACK computes with it: its codes times their scales."""
    codes = np.frombuffer(constant(tensor["constant_buffer_idx"]), _NUMPY[tensor["datatype"]]).reshape(tensor["dims"])
    if scales is None:
        return codes
    if "scale_buffer_idx" not in scales:
        raise ValueError("its weights have one scale per tensor")
    along = [-1 if dimension == scales["channel_dim"] else 1 for dimension in range(codes.ndim)]
    scale = np.frombuffer(constant(scales["scale_buffer_idx"]), "<f4").reshape(along)
    return np.asarray(codes.astype(np.float32) * scale)


def _as_in_torch(kind: str, filters: Array, groups: int) -> Array:
    """XNNPACK's filters are (out, height, width, in / groups), a depthwise layer's (1, height, width, out)."""
    if kind == "XNNConv2d":
        return filters.transpose(0, 3, 1, 2)
    if kind == "XNNDepthwiseConv2d":
        return filters.transpose(3, 0, 1, 2)
    if kind == "XNNConvTranspose2d":
        out, height, width, inner = filters.shape
        split = filters.reshape(groups, out // groups, height, width, inner).transpose(0, 4, 1, 2, 3)
        return split.reshape(groups * inner, out // groups, height, width)
    return filters
