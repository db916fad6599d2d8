"""Packed weights alone: our own decoders, onnxruntime and onnx's reference implementation all find the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from dwindle.export.onnx.fill import fill
from dwindle.export.onnx.read import tensors
from dwindle.export.onnx.unpack_bodies import LOOKS
from dwindle.export.quantize import CODED, PALETTES, Stored, store
from dwindle.onnx_session import infer, session

Evaluate = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]

LEVELS = [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL]
PRECISIONS = ("fp32", "fp16", *CODED)


def reader(*shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A graph that returns its weights w0, w1, … in a row, times an input of one element."""
    graph = make_graph(
        [
            make_node("Constant", [], ["all"], value_ints=[-1]),
            *(make_node("Reshape", [f"w{index}", "all"], [f"r{index}"]) for index in range(len(shapes))),
            make_node("Concat", [f"r{index}" for index in range(len(shapes))], ["flat"], axis=0),
            make_node("Mul", ["flat", "x"], ["y"]),
        ],
        "net",
        [make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [make_tensor_value_info("y", onnx.TensorProto.FLOAT, [sum(map(math.prod, shapes))])],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)


def packed(weights: list[np.ndarray], precision: str, *, pack: bool = True) -> tuple[onnx.ModelProto, str]:
    held = {f"w{index}": store("w", array, precision) for index, array in enumerate(weights)}
    return fill(reader(*(array.shape for array in weights)), held, pack=pack)


def in_onnxruntime(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    run = infer(session(model.SerializeToString(), options={"graph_optimization_level": level}))
    return run([np.ones(1, np.float32)])[0]


def assert_holds(model: onnx.ModelProto, weights: list[np.ndarray], precision: str, by_reference: Evaluate) -> None:
    onnx.checker.check_model(model, full_check=True)
    expected = [store("w", array, precision).decoded() for array in weights]
    decoded = tensors(model)
    for index, array in enumerate(expected):
        np.testing.assert_array_equal(decoded[f"w{index}"], array)
    whole = np.concatenate([array.reshape(-1) for array in expected])
    for level in LEVELS:
        np.testing.assert_array_equal(in_onnxruntime(model, level), whole)
    np.testing.assert_array_equal(by_reference(model, np.ones(1, np.float32)), whole)


def sparse(shape: tuple[int, ...], density: float, generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(shape, np.float32) * (generator.random(shape) < density)


def blocks(shape: tuple[int, ...], axis: int, size: int, density: float, generator: np.random.Generator) -> np.ndarray:
    """Blocks of `size` along an axis survive together."""
    coarse = list(shape)
    coarse[axis] //= size
    alive = np.repeat(generator.random(coarse) < density, size, axis)
    return generator.standard_normal(shape, np.float32) * alive


@st.composite
def networks(draw: st.DrawFn) -> list[np.ndarray]:
    """One to four tensors of any shape at any density, empty rows among them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
    made = []
    for shape in draw(st.lists(shapes, min_size=1, max_size=4)):
        if len(shape) in (2, 3) and draw(st.booleans()):
            shape = (8 * shape[0], 16 * shape[1], *shape[2:])  # rows long enough for four bits
        else:
            shape = (64 * shape[0], *shape[1:])  # so that packing is worth its functions
        array = sparse(shape, draw(st.sampled_from([0, 0.002, 0.01, 0.1, 0.3, 0.5, 1])), generator)
        array[generator.random(shape[0]) < draw(st.sampled_from([0, 0.3]))] = 0
        made.append(array)
    return made


@settings(max_examples=40)
@given(weights=networks(), precision=st.sampled_from(PRECISIONS))
def test_every_implementation_unpacks_the_same_weights(
    by_reference: Evaluate, weights: list[np.ndarray], precision: str
) -> None:
    model, _ = packed(weights, precision)
    assert_holds(model, weights, precision, by_reference)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("axis", "size"), [(0, 4), (1, 8), (0, 2), (1, 4)])
def test_blocks_are_packed_as_such(by_reference: Evaluate, precision: str, axis: int, size: int) -> None:
    generator = np.random.default_rng(0)
    shapes = (64, 32, 3, 3), (128, 64)
    weights = [blocks(shape, axis, size, 0.2, generator) for shape in shapes]
    model, _ = packed(weights, precision)
    assert_holds(model, weights, precision, by_reference)
    if precision == "fp32":
        loose = [generator.permutation(array.reshape(-1)).reshape(array.shape) for array in weights]
        share, total = 0.2, sum(map(math.prod, shapes))
        entropy = -total * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
        assert model.ByteSize() < packed(loose, precision)[0].ByteSize() - (1 - 1 / size) * entropy + 500


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_of_four_take_less_than_a_bit_mask(by_reference: Evaluate, precision: str) -> None:
    generator = np.random.default_rng(0)
    weights = []
    for shape in ((64, 32, 3, 3), (100, 80)):
        array = generator.standard_normal((shape[0], *shape[2:], shape[1] // 4, 4), np.float32)
        np.put_along_axis(array, generator.random(array.shape).argsort(-1)[..., :2], 0, -1)
        weights.append(np.moveaxis(array.reshape(shape[0], *shape[2:], shape[1]), -1, 1).copy())
    model, encoding = packed(weights, precision)
    assert encoding == f"2:4 + {precision} survivors"
    assert_holds(model, weights, precision, by_reference)
    total = sum(array.size for array in weights)
    itemsize = store("w", weights[0], precision).bits / 8
    more = total / 64 + 600 if itemsize < 1 else 0  # scales for blocks, a palette, and what four bits take to unpack
    assert model.ByteSize() < total / 12 + total / 2 * itemsize + 164 + 2100 + more


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (), (1,), (7,)])
def test_small_and_empty_tensors(shape: tuple[int, ...], precision: str) -> None:
    weights = np.zeros(shape, np.float32)
    model, _ = packed([weights], precision)
    np.testing.assert_array_equal(in_onnxruntime(model, LEVELS[1]), weights.reshape(-1))
    assert tensors(model)["w0"].shape == shape


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("density", [0, 0.05, 0.5, 0.9, 0.96, 1])
def test_packed_is_never_larger_and_near_the_entropy(density: float, precision: str) -> None:
    weights = sparse((256, 130), density, np.random.default_rng(0))
    plain, small = (packed([weights], precision, pack=pack)[0].ByteSize() for pack in (False, True))
    assert small <= plain
    held = store("w", weights, precision)
    alive = np.count_nonzero(held.values)
    share = alive / weights.size
    entropy = -weights.size * sum(part * math.log2(part) for part in (share, 1 - share) if part) / 8
    if share > 0.5:
        entropy = weights.size / 8  # no code for masks that are rather ones
    functions = 2400 if held.bits >= 8 else 3000
    assert small < 1.05 * entropy + alive * held.bits / 8 * 1.02 + 256 + functions


def test_what_is_not_fp32_stays() -> None:
    held = {
        "w0": store("w0", np.zeros((40, 40), np.float32), "fp32"),
        "indices": Stored(np.zeros(400, np.int64)),
        "unread": Stored(np.ones(9, np.float32)),
    }
    model = reader((40, 40))
    model.graph.node.append(make_node("Gather", ["y", "indices"], ["z"]))
    filled, _ = fill(model, held, pack=True)
    names = {tensor.name for tensor in filled.graph.initializer}
    assert {"indices", "w0v"} <= names
    assert not names & {"unread", "w0"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_session_creation_leaves_nothing_of_the_unpacking(tmp_path: Path, precision: str) -> None:
    generator = np.random.default_rng(0)
    weights = [
        sparse((50, 30), 0.1, generator),
        sparse((50, 30, 3), 0.5, generator),
        blocks((64, 32), 0, 4, 0.2, generator),
        sparse((64, 1, 3, 3), 1, generator),
        sparse((64,), 1, generator),
    ]
    model, _ = packed(weights, precision)
    session(model.SerializeToString(), options={"optimized_model_filepath": str(tmp_path / "optimized.onnx")})
    assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["Mul"]


def test_many_weights_are_unpacked_in_several_strings(monkeypatch: pytest.MonkeyPatch, by_reference: Evaluate) -> None:
    monkeypatch.setattr("dwindle.export.onnx.fill._AT_ONCE", 5000)
    generator = np.random.default_rng(0)
    weights = [sparse((60, 50), 0.1, generator) for _ in range(4)]
    model, _ = packed(weights, "int8")
    assert sum(node.op_type == "PutCodes" for node in model.graph.node) == 4
    assert_holds(model, weights, "int8", by_reference)


def test_no_scale_is_written_that_no_row_has(by_reference: Evaluate) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32)
    weights = [rows * np.float32([[1e-2], [1e-2], [1e2], [1e2]]) / np.abs(rows).max(1, keepdims=True)]
    model, _ = packed(weights, "int8")
    (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "_t"]
    assert list(table.dims) == [2]
    assert_holds(model, weights, "int8", by_reference)


def test_a_mask_that_is_not_the_survivors_is_refused() -> None:
    model, _ = packed([sparse((60, 50), 0.1, np.random.default_rng(0))], "fp32")
    unary = next(tensor for tensor in model.graph.initializer if tensor.name == "w0u")
    unary.raw_data = b"\0" + unary.raw_data[1:]
    with pytest.raises(ValueError, match=r"the mask keeps \d+ weights, there are \d+"):
        tensors(model)


def test_blocks_of_scaled_blocks_have_names_of_their_own(by_reference: Evaluate) -> None:
    """Three steps from the string to the tensor: turned, scaled by blocks of input channels, brought into shape."""
    weights = [blocks((64, 256, 3, 3), 0, 8, 0.3, np.random.default_rng(0))]
    model, _ = packed(weights, "int4")
    assert {"Turn", "Scaled", "View"} <= {node.op_type for node in model.graph.node}
    assert_holds(model, weights, "int4", by_reference)


@pytest.mark.parametrize("precision", PALETTES)
@pytest.mark.parametrize("size", [1, 4])
def test_tensors_of_one_string_are_looked_up_in_their_own_palettes(
    by_reference: Evaluate, size: int, precision: str
) -> None:
    generator = np.random.default_rng(0)
    weights = [scale * blocks((64, 64), 0, size, 0.2, generator) for scale in (1, 100, 0, 0.01)]
    model, _ = packed(weights, precision)
    looks = [node for node in model.graph.node if node.op_type in LOOKS.values()]
    assert max(len(attribute.ints) for node in looks for attribute in node.attribute) == 3  # the dead one has no codes
    assert_holds(model, weights, precision, by_reference)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_codes_of_palettes_take_a_bit_more_where_zeros_are_packed_too(by_reference: Evaluate, bits: int) -> None:
    generator = np.random.default_rng(0)
    weights = [sparse((64, 256), density, generator) for density in (1, 0.97)]
    dense, holed = [packed([array], f"palette{bits}", pack=False)[0] for array in weights]
    for model, wide in ((dense, bits), (holed, bits + 1)):
        assert [node.op_type for node in model.graph.node if node.op_type in LOOKS.values()] == [LOOKS[wide]]
        (words,) = (tensor for tensor in model.graph.initializer if tensor.name == "w04" or tensor.name.endswith("4"))
        assert len(words.raw_data) <= 64 * 256 * wide / 8 * 1.02
    assert_holds(dense, weights[:1], f"palette{bits}", by_reference)
    assert_holds(holed, weights[1:], f"palette{bits}", by_reference)
