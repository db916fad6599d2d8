"""A graph that computes in int8: quantized values marked by QuantizeLinear and DequantizeLinear (QDQ).

That is the form which onnxruntime, its build for browsers and its QNN provider turn into int8 kernels. Weights are int8
codes that DequantizeLinear reads, so that an unpacked weight stays int8; biases are int32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto
from onnx.helper import get_attribute_value, make_node
from onnx.numpy_helper import from_array, to_array

from dwindle.export.fold import short_names, tensors, trace
from dwindle.export.onnx.consumers import NEWEST
from dwindle.export.onnx.graph import graph_of
from dwindle.export.quantize import Stored, store
from dwindle.export.w8a8 import Quantized
from dwindle.export.w8a8_codes import Layer, places_of

if TYPE_CHECKING:
    from torch import Tensor, nn

CODES = "i"
"""What ends the name of a tensor's codes; the tensor's own name is that of their dequantized values."""


def skeleton(network: nn.Module, quantized: Quantized, inputs: tuple[Tensor, ...], opset: int = NEWEST) -> ModelProto:
    """The graph of a network in int8, without its tensors, with the ranges of its activations.

    network: what `w8a8.quantize` made `quantized` of. opset: the newest operator set that it may be in. Raises
    UsageError where it has an operator that ONNX lacks.
    """
    model = graph_of(trace(quantized.activations_only, inputs, network), network, opset)
    _own_ranges(model)
    names = short_names(network)
    _own_transposes(model, {names[layer.weight] for layer in quantized.layers})
    readers = _readers(model)
    dequantizing: list[NodeProto] = []
    for layer in {one.weight: one for one in quantized.layers}.values():
        weight = names[layer.weight]
        codes = last = f"{weight}{CODES}"
        for index, reader in enumerate(readers[weight]):
            again = f"c{index}" if index else ""  # a layer that is called more than once
            scaled = [f"{codes}{again}", f"{codes}q"]
            if again:  # onnxruntime on x86 makes uint8 of the codes and zero points of each, by one name for one tensor
                # It makes one of equal copies of one tensor, so that each is a copy of the one before it.
                model.graph.initializer.append(from_array(np.array(layer.codes.shape), f"{codes}s{again}"))
                dequantizing.append(make_node("Reshape", [last, f"{codes}s{again}"], [f"{codes}{again}"]))
                last = f"{codes}{again}"
            if reader.op_type != "Conv":  # onnxruntime adds zero points to convolutions alone
                scaled.append(f"{codes}z{again}")
                model.graph.initializer.append(from_array(np.zeros(layer.scale.size, np.int8), scaled[-1]))
            dequantizing.append(make_node("DequantizeLinear", scaled, [f"{weight}{again}"], axis=layer.axis))
            reader.input[:] = [f"{weight}{again}" if name == weight else name for name in reader.input]
    made = {output: node for node in model.graph.node for output in node.output}
    for layer in {one.bias: one for one in quantized.layers if one.bias}.values():
        bias, scales = names[layer.bias or ""], f"{names[layer.weight]}{CODES}q"
        step = made[_input_of(readers, names[layer.weight])].input[1]
        dequantizing.append(make_node("Mul", [scales, step], [f"{bias}{CODES}q"]))
        dequantizing.append(make_node("DequantizeLinear", [f"{bias}{CODES}", f"{bias}{CODES}q"], [bias], axis=0))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*dequantizing, *nodes])
    return model


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each value."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return readers


def _own_transposes(model: ModelProto, weights: Collection[str]) -> None:
    """Has every call of a layer read its weight by itself, in place, where they read one transposed weight."""
    readers, nodes = _readers(model), list[NodeProto]()
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Transpose" or node.input[0] not in weights:
            continue
        for index, reader in enumerate(readers[node.output[0]][1:]):
            own = f"{node.output[0]}c{index}"
            again = NodeProto()
            again.CopyFrom(node)
            again.name, again.output[0] = "", own
            nodes.append(again)
            reader.input[:] = [own if name == node.output[0] else name for name in reader.input]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _input_of(readers: Mapping[str, list[NodeProto]], weight: str) -> str:
    """What a layer computes of, beside its weight, which it may read transposed."""
    node = readers[weight][0]
    while node.op_type == "Transpose":
        weight, node = node.output[0], readers[node.output[0]][0]
    return str(next(name for name in node.input if name != weight))


def stored(network: nn.Module, layers: tuple[Layer, ...]) -> dict[str, Stored]:
    """What the file holds of a network's tensors, by the names that `skeleton` reads: those of layers in int8 as codes,
    others in fp16."""
    names = short_names(network)
    held = {names[name]: store(name, tensor.numpy(), "fp16") for name, tensor in tensors(network).items()}
    for layer in layers:
        places = places_of(layer.scale)
        held.pop(names[layer.weight], None)  # which the graph makes of the codes
        held[f"{names[layer.weight]}{CODES}"] = Stored(layer.codes, places, axis=layer.axis)
        if layer.bias is not None and layer.bias_codes is not None:
            held.pop(names[layer.bias], None)
            held[f"{names[layer.bias]}{CODES}"] = Stored(layer.bias_codes)
    return held


def _own_ranges(model: ModelProto) -> None:
    """Gives every quantized value a scale and a zero point of its own, in place, and makes it uint8.

    The exporter makes one constant of equal ones, and a file's size would depend on how many are equal. int8 and uint8
    hold the same values; onnxruntime on x86 computes in uint8, and of int8 it turns only a part into its kernels.
    """
    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = to_array(get_attribute_value(node.attribute[0]))
    ranges: dict[str, list[str]] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type == "QuantizeLinear":
            own = [f"_r{index}", f"_z{index}"]
            scale, zero = (constants[name] for name in node.input[1:])
            unsigned = (zero.astype(np.int16) + 128).astype(np.uint8)
            model.graph.initializer.extend(map(from_array, (scale, unsigned), own))
            ranges[node.output[0]] = own
        elif node.op_type == "DequantizeLinear":
            if node.input[0] in constants:  # a number that the network computes with
                own = [f"_r{index}", f"_z{index}", f"_c{index}"]
                codes, scale, zero = (constants[name] for name in node.input)
                values = (scale, *((one.astype(np.int16) + 128).astype(np.uint8) for one in (zero, codes)))
                model.graph.initializer.extend(map(from_array, values, own))
                node.input[0] = own.pop()
            else:
                own = ranges[node.input[0]]
        else:
            continue
        node.input[1:] = own
        del node.attribute[:]
    _drop_unread(model)


def _drop_unread(model: ModelProto) -> None:
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = [node for node in model.graph.node if node.op_type != "Constant" or node.output[0] in read]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
