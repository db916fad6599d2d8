"""Sparse tensors inside an ONNX file: a bit mask and its survivors, unpacked by the graph itself.

One model-local function, made of stock operators, turns the two back into the dense tensor. Every shape in
it is static, so that onnxruntime computes it once, when the session is created, and inference runs at the
speed of the dense file. (NonZero, Compress and DequantizeLinear would be shorter; they are not computed ahead.)

    bits    = (mask & [1, 2, 4, …, 128]) ≠ 0, flattened, as many as the tensor has weights
    weights = values[cumsum(bits) · bits], where values[0] = 0 is what a pruned weight reads
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import make_function, make_node, make_opsetid
from onnx.numpy_helper import from_array, to_array

from dwindle.export import bitmask

DOMAIN, FUNCTION = "dw", "Unpack"
Arrays = Mapping[str, NDArray[Any]]


def fill(skeleton: ModelProto, weights: Arrays, *, pack: bool) -> ModelProto:
    """A whole model: `skeleton` with the tensors it reads, the fp32 ones packed where that takes fewer bytes.

    weights: by the names that the skeleton uses; those it doesn't read are left out.
    """
    read = {name for node in skeleton.graph.node for name in node.input}
    read |= {output.name for output in skeleton.graph.output}
    dense = {name: GraphProto(initializer=[from_array(array, name)]) for name, array in weights.items() if name in read}
    floats = {name: weights[name] for name in dense if weights[name].dtype == np.float32 and weights[name].ndim}
    packed = {name: _packed(name, array) for name, array in floats.items()}
    smaller = {name: form for name, form in packed.items() if form.ByteSize() < dense[name].ByteSize()}
    plain = _with(skeleton, dense)
    if not pack or not smaller:
        return plain
    model = _with(skeleton, {**dense, **smaller})
    opset = next(opset.version for opset in model.opset_import if opset.domain == "")
    model.functions.append(unpack_function(opset))
    model.opset_import.append(make_opsetid(DOMAIN, 1))
    return min(model, plain, key=ModelProto.ByteSize)


def tensors(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Every constant of a model, packed ones decoded, by the name under which its graph reads it.

    Raises ValueError where mask, survivors and shape do not belong together.
    """
    held = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if (node.domain, node.op_type) == (DOMAIN, FUNCTION):
            mask, values = (held.pop(name) for name in node.input)
            if values[0] != 0:
                raise ValueError(f"{node.output[0]} reads {values[0]} where a weight is pruned")
            held[node.output[0]] = bitmask.decode(mask, values[1:], tuple(node.attribute[0].ints))
    return held


@cache
def unpack_function(opset: int) -> FunctionProto:
    """weights = Unpack(m, v), the attribute `s` being its shape.

    m: uint8 (⌈n/8⌉, 1), the mask; v: float (1 + survivors,), a zero and the survivors.
    """
    shape = NodeProto(op_type="Constant", output=["s"])
    shape.attribute.add(name="value_ints", ref_attr_name="s", type=AttributeProto.INTS)
    powers = from_array(1 << np.arange(8, dtype=np.uint8), "")
    nodes = [
        shape,
        make_node("Constant", [], ["p"], value=powers),
        make_node("Constant", [], ["f"], value_ints=[-1]),
        make_node("Constant", [], ["a"], value_ints=[0]),
        make_node("Constant", [], ["z"], value_int=0),
        make_node("BitwiseAnd", ["m", "p"], ["b"]),
        make_node("Reshape", ["b", "f"], ["c"]),
        make_node("ReduceProd", ["s"], ["n"]),
        make_node("Slice", ["c", "a", "n"], ["d"]),
        make_node("Cast", ["d"], ["e"], to=TensorProto.BOOL),
        make_node("Cast", ["e"], ["g"], to=TensorProto.INT32),  # late: four bytes a weight from here on
        make_node("CumSum", ["g", "z"], ["h"]),
        make_node("Mul", ["h", "g"], ["i"]),
        make_node("GatherElements", ["v", "i"], ["j"]),  # Gather's kernel is forty times slower at this
        make_node("Reshape", ["j", "s"], ["w"]),
    ]
    return make_function(DOMAIN, FUNCTION, ["m", "v"], ["w"], nodes, [make_opsetid("", opset)], ["s"])


def _packed(name: str, array: NDArray[np.float32]) -> GraphProto:
    mask, survivors = bitmask.encode(array)
    mask_name, values_name = f"{name}m", f"{name}v"
    return GraphProto(
        node=[make_node(FUNCTION, [mask_name, values_name], [name], domain=DOMAIN, s=array.shape)],
        initializer=[
            from_array(mask.reshape(-1, 1), mask_name),
            from_array(np.concatenate([np.zeros(1, np.float32), survivors]), values_name),
        ],
    )


def _with(skeleton: ModelProto, parts: Mapping[str, GraphProto]) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(skeleton)
    rest = list(model.graph.node)
    del model.graph.node[:]  # what unpacks a weight comes before what reads it
    for part in parts.values():
        model.graph.MergeFrom(part)
    model.graph.node.extend(rest)
    return model
