"""The functions by which an ONNX file unpacks its own weights, made of stock operators.

Every shape in them is static, so that onnxruntime computes them once, when the session is created, and
inference runs at the speed of the dense file. (NonZero, Compress and DequantizeLinear would be shorter; they
are not computed ahead.) Each unpacks many tensors at once: what a session spends on a node adds up.

    Ones    the numbers of the ones in a string of bits: positions from a bit mask, or of `rice`'s unary part
    Gaps    the positions of survivors, from those and from `rice`'s low part
    Pairs   the same, from the codes of `two_of_four`
    Put     values at positions among zeros, as fp32; PutBlocks: blocks of several values;
            PutCodes, PutCodeBlocks: integer codes, which stay such
    Float   values as fp32
    Nibbles integer codes of four bits, two from each byte
    Look    places in palettes, of one to four bits (LOOKS), as the values there in fp32
    Scales  the scales of rows or blocks, from a byte each
    View    a part of what was unpacked, in its shape; Scaled: times its scales; Turn: its last two axes swapped

Put16, PutBlocks16, Scaled16 and the like of LOOKS make fp16, for graphs that compute in it.
"""

from __future__ import annotations

from functools import cache

from onnx import AttributeProto, FunctionProto, NodeProto
from onnx.helper import make_function, make_node, make_opsetid

from dwindle.export.onnx.unpack_bodies import BODIES, LOOKS

DOMAIN = "dw"
HALVED = ("Put", "PutBlocks", "Scaled", *LOOKS.values())
"""The functions that make fp32, and under their names with 16 behind them fp16."""
PUT = ("Put", "PutCodes", "PutBlocks", "PutCodeBlocks", "Put16", "PutBlocks16")


def call(function: str, inputs: list[str], output: str, **attributes: list[int]) -> NodeProto:
    """A node that calls one of the functions."""
    return make_node(function, inputs, [output], domain=DOMAIN, **attributes)


@cache
def function(name: str, opset: int) -> FunctionProto:
    """A function's definition, for a model of that opset."""
    inputs, attributes, nodes = BODIES[name]()
    named = {attribute: NodeProto(op_type="Constant", output=[attribute]) for attribute in attributes}
    for attribute, node in named.items():
        node.attribute.add(name="value_ints", ref_attr_name=attribute, type=AttributeProto.INTS)
    body = [*named.values(), *nodes]
    return make_function(DOMAIN, name, inputs, ["w"], body, [make_opsetid("", opset)], attributes)
