"""Reading the weights of an ONNX file without a runtime: our own decoders in place of its `unpack` functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import get_attribute_value
from onnx.numpy_helper import to_array

from dwindle.export.codes import fields, rice, two_of_four
from dwindle.export.onnx.unpack import DOMAIN, HALVED, PUT
from dwindle.export.onnx.unpack_bodies import LOOKS
from dwindle.manifest import Breakdown

Array = NDArray[Any]


def tensors(model: ModelProto) -> dict[str, Array]:
    """Every constant of a model, unpacked by our own decoders, by the name under which its graph reads it.

    Raises ValueError where the parts of one do not belong together.
    """
    found = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    whole = set(found)  # what may be split
    for node in model.graph.node:
        inputs = [found[name] for name in node.input if name in found]
        if node.domain == DOMAIN:
            found[node.output[0]] = _DECODERS[node.op_type](*inputs, **_attributes(node))
            whole |= {node.output[0]} if node.op_type in _WHOLE else set()
        elif node.op_type in _SCALING and len(inputs) == len(node.input):
            found[node.output[0]] = _SCALING[node.op_type](*inputs, **_attributes(node))
        elif node.op_type == "Split" and node.input[0] in whole:
            array, sizes = inputs
            found |= zip(node.output, np.split(array, np.cumsum(sizes)[:-1]), strict=True)
    return found


_LOOKS = {f"{name}{half}": bits for bits, name in LOOKS.items() for half in ("", "16")}
"""The bits of a code, by the functions that look codes up."""
_WHOLE = (*PUT, "Float", "Nibbles", *_LOOKS, "Scales")
"""The functions that make all tensors of a code, in a row."""


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


_MASK_READERS = ("Ones", "Gaps", "Pairs")
"""The functions whose constants say which weights survive."""


def breakdown(model: ModelProto) -> Breakdown:
    """What a model's bytes are spent on.

    Values are what unpacking functions read, whole or in parts, and other tensors of two dimensions or more.
    """
    unpacking = [node for node in model.graph.node if node.domain == DOMAIN]
    masks = {name for node in unpacking if node.op_type in _MASK_READERS for name in node.input}
    packed = {name for node in unpacking for name in node.input}
    packed |= {node.input[0] for node in model.graph.node if node.op_type == "Split"}
    mask = values = initializers = 0
    for tensor in model.graph.initializer:
        initializers += tensor.ByteSize()
        size = to_array(tensor).nbytes
        if tensor.name in masks:
            mask += size
        elif tensor.name in packed or (len(tensor.dims) > 1 and tensor.data_type != TensorProto.INT64):
            values += size
    return Breakdown.of(model.ByteSize(), mask=mask, values=values, graph=model.ByteSize() - initializers)


def _decode_ones(unary: Array, r: list[int], k: list[int]) -> Array:
    first, beyond, step = r
    if beyond != first + 8 * step * unary.size:
        raise ValueError(f"{8 * unary.size} bits are numbered from {first} to {beyond} in steps of {step}")
    return first + step * rice.decode(unary, np.zeros(0, np.uint8), 0, k[0] - 1)


def _decode_gaps(numbers: Array, low: Array, b: list[int], s: list[int], r: list[int]) -> Array:
    k = s[0]
    ends, rest = np.divmod(numbers - (1 << k) + 1, 1 << k)
    if rest.any() or (b, r) != ([k * ends.size], [1 << bit for bit in range(k)]):
        raise ValueError(f"{ends.size} runs with {k} low bits are unpacked with b = {b}, r = {r}")
    unary = np.zeros(ends[-1] + 1, np.uint8)
    unary[ends] = 1
    return rice.decode(rice.pack(unary), low, k, ends.size)


def _decode_look(bits: int, words: Array, palettes: Array, s: list[int], u: list[int], n: list[int]) -> Array:
    first = np.cumsum(u)[np.searchsorted(s, np.arange(n[0]), "right") - 1]
    values: Array = palettes.astype(np.float32)[fields.decode(words, bits, n[0]) + first]
    return values


def _decode_put(positions: Array, values: Array, n: list[int]) -> Array:
    whole = np.zeros(n, values.dtype if values.dtype == np.int8 else np.float32)
    if positions.size and positions[-1] >= len(whole):
        raise ValueError(f"the mask keeps the weight {positions[-1]} of {len(whole)}")
    whole[positions] = values
    return whole.reshape(-1)


def _dequantize(codes: Array, scale: Array, zero: Array | None = None, axis: int = 1) -> Array:
    shape = [-1 if dimension == axis else 1 for dimension in range(codes.ndim)]
    if zero is not None and zero.any():
        raise ValueError("it has weights with a zero point, which dwindle does not write")
    return codes.astype(np.float32) * scale.reshape(shape)


def _half(decode: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *parts, **numbers: decode(*parts, **numbers).astype(np.float16)


_SCALING: dict[str, Callable[..., Array]] = {"DequantizeLinear": _dequantize, "Mul": np.multiply}
"""What standard operators make of codes and scales, where all they read is in the file."""

_DECODERS: dict[str, Callable[..., Array]] = {
    "Ones": _decode_ones,
    "Gaps": _decode_gaps,
    "Pairs": lambda codes, g, n: two_of_four.decode(codes, n[0]),
    **dict.fromkeys(PUT, _decode_put),
    "Float": lambda values: values.astype(np.float32),
    "Nibbles": lambda packed, n, d: fields.decode(packed, 4, n[0]) + np.int8(d[0]),
    **{LOOKS[bits]: partial(_decode_look, bits) for bits in LOOKS},
    "Scales": lambda codes, table: table.astype(np.float32)[codes],
    "View": lambda part, s: part.reshape(s),
    "Scaled": lambda part, scale, s: part.reshape(s).astype(np.float32) * scale,
    "Turn": lambda part, t, s: part.reshape(t).transpose(0, 2, 1).reshape(s),
}
_DECODERS |= {f"{name}16": _half(_DECODERS[name]) for name in HALVED}
