"""The bodies of `unpack`'s functions, in stock operators: inputs, attributes and nodes of each, its output being w."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto
from onnx.helper import make_node, np_dtype_to_tensor_dtype, tensor_dtype_to_np_dtype
from onnx.numpy_helper import from_array

from dwindle.export.codes import fields, two_of_four

LOOKS = {4: "LookHex", 3: "LookOctal", 2: "LookQuarters", 1: "LookBits"}
"""The functions that look codes up in palettes, by the bits of a code."""
Body = tuple[list[str], list[str], list[NodeProto]]


def _constant(name: str, value: Any, dtype: Any) -> NodeProto:
    return make_node("Constant", [], [name], value=from_array(np.asarray(value, dtype), ""))


def _bits(packed: str, bits: str) -> list[NodeProto]:
    """0 and other numbers from bytes, in the order of `rice.pack`."""
    return [
        _constant("o", 1 << np.arange(8)[:, None], np.uint8),
        make_node("BitwiseAnd", [packed, "o"], [f"{bits}0"]),
        make_node("Constant", [], ["f"], value_ints=[-1]),
        make_node("Reshape", [f"{bits}0", "f"], [bits]),
    ]


def _counting(length: str, numbers: str) -> list[NodeProto]:
    """int32 from 0 up."""
    return [
        _constant("Z", 0, np.int32),
        _constant("O", 1, np.int32),
        make_node("Cast", [length], [f"{numbers}0"], to=TensorProto.INT32),
        make_node("Squeeze", [f"{numbers}0"], [f"{numbers}1"]),
        make_node("Range", ["Z", f"{numbers}1", "O"], [numbers]),
    ]


def _ones() -> Body:
    """u: uint8 (bits/8,). r: the number of the first bit, one beyond the last, and the step. k: one more than there are
    ones.

    Each one writes its number at its rank, each zero at rank 0, which is dropped.
    """
    return (
        ["u"],
        ["r", "k"],
        [
            *_bits("u", "a"),
            _constant("Z", 0, np.int32),
            make_node("Cast", ["r"], ["i"], to=TensorProto.INT32),
            make_node("Split", ["i"], ["i0", "i1", "i2"], num_outputs=3),
            *(make_node("Squeeze", [f"i{part}"], [f"n{part}"]) for part in range(3)),
            make_node("Range", ["n0", "n1", "n2"], ["e"]),
            make_node("Cast", ["a"], ["c"], to=TensorProto.BOOL),
            make_node("Cast", ["c"], ["d"], to=TensorProto.INT32),
            make_node("CumSum", ["d", "Z"], ["g"]),
            make_node("Mul", ["d", "g"], ["h"]),
            make_node("ConstantOfShape", ["k"], ["l"], value=from_array(np.zeros(1, np.int32), "")),
            make_node("ScatterElements", ["l", "h", "e"], ["m"]),
            make_node("Constant", [], ["j"], value_ints=[1]),
            make_node("Slice", ["m", "j", "k"], ["w"]),
        ],
    )


def _gaps() -> Body:
    """p: int32 (survivors,), numbers of the unary part's ones, its bits numbered from 2ᵏ − 1 in steps of 2ᵏ. l: uint8,
    the low part. b: its bits, k · survivors. s: [k, −1]. r: the powers of two that its planes stand for, up to 128.

    The i-th survivor, its one the u-th bit, is at (u − i) · 2ᵏ + i + the sum of low parts up to its own. With
    d = 2ᵏ − 1 that is p = u · 2ᵏ + d and the sum of (low part − d), which is r times the planes' bits less one.
    """
    return (
        ["p", "l"],
        ["b", "s", "r"],
        [
            *_bits("l", "a"),
            make_node("Constant", [], ["y"], value_ints=[0]),
            make_node("Slice", ["a", "y", "b"], ["c"]),
            make_node("Reshape", ["c", "s"], ["e"]),
            make_node("Cast", ["e"], ["g"], to=TensorProto.BOOL),
            make_node("Cast", ["g"], ["h"], to=TensorProto.UINT8),
            make_node("Cast", ["r"], ["i"], to=TensorProto.UINT8),
            _constant("Z", 0, np.uint8),
            _constant("O", 1, np.uint8),
            make_node("MatMulInteger", ["i", "h", "Z", "O"], ["j"]),
            make_node("Constant", [], ["z"], value_int=0),
            make_node("CumSum", ["j", "z"], ["k"]),
            make_node("Add", ["p", "k"], ["w"]),
        ],
    )


def _pairs() -> Body:
    """c: uint8 (⌈groups/3⌉, 1). g: groups, a multiple of three. n: survivors."""
    return (
        ["c"],
        ["g", "n"],
        [
            make_node("Cast", ["c"], ["a"], to=TensorProto.INT32),
            _constant("b", [1, 6, 36], np.int32),
            make_node("Div", ["a", "b"], ["d"]),
            _constant("e", 6, np.int32),
            make_node("Mod", ["d", "e"], ["h"]),
            make_node("Constant", [], ["f"], value_ints=[-1]),
            make_node("Reshape", ["h", "f"], ["i"]),
            _constant("j", two_of_four.PAIRS, np.int32),
            make_node("Gather", ["j", "i"], ["k"]),  # (groups, 2)
            *_counting("g", "l"),
            _constant("m", 4, np.int32),
            make_node("Mul", ["l", "m"], ["o"]),
            make_node("Unsqueeze", ["o", "f"], ["p"]),
            make_node("Add", ["k", "p"], ["q"]),
            make_node("Reshape", ["q", "f"], ["r"]),
            make_node("Constant", [], ["y"], value_ints=[0]),
            make_node("Slice", ["r", "y", "n"], ["w"]),
        ],
    )


def _put(dtype: int) -> Body:
    """p: int32 (survivors,). v: (survivors,). n: the weights there are."""
    zero = TensorProto(dims=[1], data_type=dtype, raw_data=bytes(np.zeros(1, tensor_dtype_to_np_dtype(dtype))))
    return (
        ["p", "v"],
        ["n"],
        [
            make_node("Cast", ["v"], ["a"], to=dtype),
            make_node("ConstantOfShape", ["n"], ["b"], value=zero),
            make_node("ScatterElements", ["b", "p", "a"], ["w"]),
        ],
    )


def _put_blocks(dtype: int) -> Body:
    """p: int32 (survivors,), in blocks. v: (survivors, block). n: the blocks there are, and their size."""
    zero = TensorProto(dims=[1], data_type=dtype, raw_data=bytes(np.zeros(1, tensor_dtype_to_np_dtype(dtype))))
    return (
        ["p", "v"],
        ["n"],
        [
            make_node("Constant", [], ["f"], value_ints=[-1]),
            make_node("Cast", ["v"], ["a"], to=dtype),
            make_node("Cast", ["p"], ["e"], to=TensorProto.INT64),
            make_node("Unsqueeze", ["e", "f"], ["b"]),
            make_node("ConstantOfShape", ["n"], ["c"], value=zero),
            make_node("ScatterND", ["c", "b", "a"], ["d"]),
            make_node("Reshape", ["d", "f"], ["w"]),
        ],
    )


def _scales() -> Body:
    """c: uint8 (scales, 1, …). t: fp16, the scales that are used."""
    return (
        ["c", "t"],
        [],
        [
            make_node("Cast", ["c"], ["a"], to=TensorProto.INT32),
            make_node("Gather", ["t", "a"], ["b"]),
            make_node("Cast", ["b"], ["w"], to=TensorProto.FLOAT),
        ],
    )


def _fields(bits: int) -> list[NodeProto]:
    """The nodes from v, words of `fields`, to h: its first n codes in int32."""
    word = np.dtype(fields.WORDS[bits])
    return [
        _constant("q", fields.shifts(bits)[:, None], np.uint8),
        make_node("Cast", ["q"], ["a"], to=np_dtype_to_tensor_dtype(word)),
        make_node("BitShift", ["v", "a"], ["b"], direction="RIGHT"),
        _constant("c", (1 << bits) - 1, word),
        make_node("BitwiseAnd", ["b", "c"], ["e"]),
        make_node("Cast", ["e"], ["f"], to=TensorProto.INT32),
        make_node("Constant", [], ["y"], value_ints=[0]),
        make_node("Constant", [], ["z"], value_ints=[-1]),
        make_node("Reshape", ["f", "z"], ["g"]),
        make_node("Slice", ["g", "y", "n"], ["h"]),
    ]


def _nibbles() -> Body:
    """v: uint8, codes of four bits. n: codes. d: what 0 stands for."""
    return (
        ["v"],
        ["n", "d"],
        [
            *_fields(4),
            make_node("Cast", ["d"], ["i"], to=TensorProto.INT32),
            make_node("Add", ["h", "i"], ["j"]),
            make_node("Cast", ["j"], ["w"], to=TensorProto.INT8),
        ],
    )


def _look(bits: int, dtype: int) -> Body:
    """v: words of codes, places in palettes. p: fp16, palettes one after the other. s: where the codes of each begin.
    u: by how much its first value is behind that of the palette before. n: codes.
    """
    return (
        ["v", "p"],
        ["s", "u", "n"],
        [
            *_fields(bits),
            make_node("ConstantOfShape", ["n"], ["i"], value=from_array(np.zeros(1, np.int32), "")),
            make_node("Cast", ["u"], ["j"], to=TensorProto.INT32),
            make_node("ScatterElements", ["i", "s", "j"], ["k"]),
            make_node("Constant", [], ["x"], value_int=0),
            make_node("CumSum", ["k", "x"], ["l"]),
            make_node("Add", ["h", "l"], ["m"]),
            make_node("Cast", ["p"], ["o"], to=dtype),
            make_node("Gather", ["o", "m"], ["w"]),
        ],
    )


def _scaled(dtype: int) -> Body:
    """x: codes, or values of a palette. q: fp32, their scales. s: the shape in which they broadcast."""
    return (
        ["x", "q"],
        ["s"],
        [
            make_node("Reshape", ["x", "s"], ["a"]),
            make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
            make_node("Mul", ["b", "q"], ["w" if dtype == TensorProto.FLOAT else "c"]),
            *([] if dtype == TensorProto.FLOAT else [make_node("Cast", ["c"], ["w"], to=dtype)]),
        ],
    )


def _turn() -> Body:
    return (
        ["x"],
        ["t", "s"],
        [
            make_node("Reshape", ["x", "t"], ["a"]),
            make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
            make_node("Reshape", ["b", "s"], ["w"]),
        ],
    )


BODIES: dict[str, Callable[[], Body]] = {
    "Ones": _ones,
    "Gaps": _gaps,
    "Pairs": _pairs,
    "Put": lambda: _put(TensorProto.FLOAT),
    "PutCodes": lambda: _put(TensorProto.INT8),
    "PutBlocks": lambda: _put_blocks(TensorProto.FLOAT),
    "Put16": lambda: _put(TensorProto.FLOAT16),
    "PutBlocks16": lambda: _put_blocks(TensorProto.FLOAT16),
    "PutCodeBlocks": lambda: _put_blocks(TensorProto.INT8),
    "Float": lambda: (["v"], [], [make_node("Cast", ["v"], ["w"], to=TensorProto.FLOAT)]),
    "Nibbles": _nibbles,
    **{name: partial(_look, bits, TensorProto.FLOAT) for bits, name in LOOKS.items()},
    **{f"{name}16": partial(_look, bits, TensorProto.FLOAT16) for bits, name in LOOKS.items()},
    "Scales": _scales,
    "View": lambda: (["x"], ["s"], [make_node("Reshape", ["x", "s"], ["w"])]),
    "Scaled": lambda: _scaled(TensorProto.FLOAT),
    "Scaled16": lambda: _scaled(TensorProto.FLOAT16),
    "Turn": _turn,
}
