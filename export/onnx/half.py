"""A graph that computes in fp16 between inputs and outputs in fp32, but for what fp16 does not hold.

What an operator's schema takes in fp32 alone, such as the scales of Resize, stays so. `spelled_out` is for CPUs, whose
kernels mostly compute fp16 graphs in fp32 and round nothing in between: what overflows on a GPU is right there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.helper import get_attribute_value, make_attribute, make_node, make_tensor_value_info, np_dtype_to_tensor_dtype
from onnx.numpy_helper import from_array, to_array

from dwindle.errors import UsageError
from dwindle.export.onnx.unpack import DOMAIN

_SINGLE, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)
_TYPED = ("dtype", "output_datatype")
"""Attributes that say what type an operator makes; one that has such an attribute computes in fp32."""
_AS_THEY_ARE = ("Cast", "Constant", "ConstantOfShape", "Split")
"""What rounds by itself, or computes nothing."""


def halved(skeleton: ModelProto, weights: Mapping[str, NDArray[np.generic]], fp32: Collection[str] = ()) -> ModelProto:
    """The graph of `skeleton` in fp16, whose weights are to be filled in as fp16.

    weights: the tensors that the graph reads and lacks, by name. fp32: the operations that stay in fp32, by the names
    of their first outputs, as they are in the skeleton. Raises UsageError for branches and loops.
    """
    graph = skeleton.graph
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UsageError(
                f"the network's {node.op_type} runs a graph of its own, which `compute` fp16 does not reach: leave out "
                "`compute`",
                code="not-convertible",
                option="compute",
                name=node.op_type,
            )
    return _Halving(skeleton, weights, fp32).model()


def spelled_out(model: ModelProto) -> ModelProto:
    """A model of `halved` that computes everything in fp32 and rounds each result to fp16, by casts of its own."""
    types, made = _types(model, {}), ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    wide: set[str] = set()
    for node in model.graph.node:
        if node.domain == DOMAIN or node.op_type in _AS_THEY_ARE:
            made.graph.node.append(node)
            continue
        own, rounding = NodeProto(), []
        own.CopyFrom(node)
        for index, name in enumerate(node.input):
            if types.get(name) == _HALF:
                own.input[index] = f"{name}y"
                if name not in wide:
                    made.graph.node.append(make_node("Cast", [name], [f"{name}y"], to=_SINGLE))
                    wide.add(name)
        for index, name in enumerate(node.output):
            if types.get(name) == _HALF:
                own.output[index] = f"{name}x"
                rounding.append(make_node("Cast", [f"{name}x"], [name], to=_HALF))
        made.graph.node.extend([own, *rounding])
    return made


def showing(model: ModelProto) -> ModelProto:
    """The same model, which answers with the floating-point value of every operation, by its name, in the graph's
    order."""
    types, made = _types(model, {}), ModelProto()
    made.CopyFrom(model)
    shown = [name for node in model.graph.node for name in node.output if types.get(name) in (_SINGLE, _HALF)]
    known = {output.name for output in model.graph.output}
    made.graph.output.extend(make_tensor_value_info(name, types[name], None) for name in shown if name not in known)
    return made


class _Halving:
    """The state of going over a graph's nodes: what each value is now, and under which name."""

    def __init__(self, skeleton: ModelProto, weights: Mapping[str, NDArray[np.generic]], fp32: Collection[str]) -> None:
        self._skeleton, self._fp32 = skeleton, fp32
        (self._opset,) = (one.version for one in skeleton.opset_import if not one.domain)
        self._types = _types(skeleton, weights)
        self._now = {**self._types, **{name: _HALF for name in weights if self._types.get(name) == _SINGLE}}
        self._constants = {tensor.name: to_array(tensor) for tensor in skeleton.graph.initializer}
        self._names: dict[str, str] = {}
        """Outputs of the graph that are computed under another name."""
        self._outputs = {output.name for output in skeleton.graph.output}
        self._nodes: list[NodeProto] = []
        self._cast: set[str] = set()
        self._initializers = {tensor.name: tensor for tensor in skeleton.graph.initializer}

    def model(self) -> ModelProto:
        for node in self._skeleton.graph.node:
            self._add(node)
        for output, made in self._names.items():
            self._nodes.append(make_node("Cast", [made], [output], to=_SINGLE))
        model = ModelProto()
        model.CopyFrom(self._skeleton)
        read = {name for node in self._nodes for name in node.input} | self._outputs
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(one for name, one in self._initializers.items() if name in read)
        return model

    def _add(self, node: NodeProto) -> None:
        if node.op_type == "Constant" and self._types.get(node.output[0]) == _SINGLE:
            value = _constant(node)
            self._constants[node.output[0]] = value
            self._initializers[node.output[0]] = from_array(value, node.output[0])
            return
        own = NodeProto()
        own.CopyFrom(node)
        schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        wide = node.output[0] in self._fp32 or not self._has_half(node, schema)
        for index, name in enumerate(node.input):
            if self._types.get(name) == _SINGLE:
                half = not wide and _allows(schema.inputs, index)
                own.input[index] = self._read(
                    name, self._now[name] if node.op_type == "Cast" else (_SINGLE, _HALF)[half]
                )
        if not wide:
            for index, name in enumerate(node.output):
                if self._types.get(name) == _SINGLE:
                    self._now[name] = _HALF
                    if name in self._outputs:
                        own.output[index] = self._names[name] = f"{name}h"
            _make_half(own, self._types)
        self._nodes.append(own)

    def _has_half(self, node: NodeProto, schema: onnx.defs.OpSchema) -> bool:
        floats = [index for index, name in enumerate(node.output) if self._types.get(name) == _SINGLE]
        held = all(_allows(schema.outputs, index) for index in floats)
        lost = any(_lost(self._constants[name]) for name in node.input if name in self._constants)
        return held and not lost and not any(attribute.name in _TYPED for attribute in node.attribute)

    def _read(self, name: str, wanted: int) -> str:
        """The name under which a value is of the type wanted; what makes it so is added."""
        given = self._names.get(name, name)
        if self._now[name] == wanted:
            return given
        made = f"{name}{'h' if wanted == _HALF else 'w'}"
        if name in self._constants:
            with np.errstate(over="ignore"):
                self._initializers[made] = from_array(self._constants[name].astype(np.float16), made)
        elif made not in self._cast:
            self._nodes.append(make_node("Cast", [given], [made], to=wanted))
            self._cast.add(made)
        return made


def _types(model: ModelProto, weights: Mapping[str, NDArray[np.generic]]) -> dict[str, int]:
    """The type of each value of a graph, by name."""
    whole = ModelProto()
    whole.CopyFrom(model)
    for name, array in weights.items():
        whole.graph.input.append(make_tensor_value_info(name, np_dtype_to_tensor_dtype(array.dtype), array.shape))
    graph: GraphProto = onnx.shape_inference.infer_shapes(whole).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _allows(formal: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> bool:
    """Whether an operator takes, or makes, fp16 there; the last of its parameters may be any number of them."""
    return "tensor(float16)" in formal[min(index, len(formal) - 1)].types


def _lost(constant: NDArray[np.generic]) -> bool:
    """Whether a constant has finite values that fp16 makes infinite."""
    return constant.dtype == np.float32 and bool((np.isfinite(constant) & (np.abs(constant) > _LARGEST)).any())


def _constant(node: NodeProto) -> NDArray[np.generic]:
    (attribute,) = node.attribute
    value = get_attribute_value(attribute)
    return to_array(value) if isinstance(value, TensorProto) else np.array(value, np.float32)


def _make_half(node: NodeProto, types: Mapping[str, int]) -> None:
    """Lets a node that says what type it makes make fp16, in place."""
    stated = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Cast" and stated["to"] == _SINGLE:
        del node.attribute[:]
        node.attribute.append(make_attribute("to", _HALF))
    elif node.op_type == "ConstantOfShape" and types.get(node.output[0]) == _SINGLE:
        value = to_array(stated["value"]) if "value" in stated else np.zeros(1)
        del node.attribute[:]
        node.attribute.append(make_attribute("value", from_array(value.astype(np.float16))))
