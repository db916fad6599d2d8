"""The self-unpacking function alone, in onnxruntime and in onnx's own reference implementation."""

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

from dwindle.export.unpack import fill, tensors

LEVELS = [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL]


def reader(shape: tuple[int, ...]) -> onnx.ModelProto:
    """A graph that returns its weight, `w`, times an input of one element."""
    graph = make_graph(
        [make_node("Mul", ["w", "x"], ["y"])],
        "net",
        [make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10)


def in_onnxruntime(model: onnx.ModelProto, level: onnxruntime.GraphOptimizationLevel) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones(1, np.float32)})[0]


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).filter(lambda shape: math.prod(shape) >= 200),
    density=st.sampled_from([0, 0.01, 0.1, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_implementation_unpacks_the_same_weights(
    by_reference: Callable[[onnx.ModelProto, np.ndarray], np.ndarray], shape: list[int], density: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal(shape, np.float32) * (generator.random(shape) < density)
    dense = reader(weights.shape)
    model = fill(dense, {"w": weights}, pack=True)
    if not model.functions:  # the function itself takes some four hundred bytes
        return
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(tensors(model)["w"], weights)
    for level in LEVELS:
        np.testing.assert_array_equal(in_onnxruntime(model, level), weights)
    np.testing.assert_array_equal(by_reference(model, np.ones(1, np.float32)), weights)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (), (1,), (7,)])
def test_what_packing_would_not_shrink_stays_as_it_is(shape: tuple[int, ...]) -> None:
    weights = np.zeros(shape, np.float32)
    model = fill(reader(shape), {"w": weights}, pack=True)
    assert not model.functions
    np.testing.assert_array_equal(in_onnxruntime(model, LEVELS[1]), weights)


@pytest.mark.parametrize("density", [0, 0.05, 0.5, 0.9, 0.96, 1])
def test_packed_is_never_larger(density: float) -> None:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((64, 33), np.float32) * (generator.random((64, 33)) < density)
    plain, packed = (fill(reader(weights.shape), {"w": weights}, pack=pack).ByteSize() for pack in (False, True))
    assert packed <= plain
    if density <= 0.9:
        survivors = np.count_nonzero(weights)
        assert packed - (plain - weights.nbytes) < weights.size / 8 + 4 * survivors + 550


def test_only_fp32_is_packed() -> None:
    weights = {
        "w": np.zeros((40, 40), np.float32),
        "indices": np.zeros(400, np.int64),
        "unread": np.ones(9, np.float32),
    }
    model = reader((40, 40))
    model.graph.node.append(make_node("Gather", ["y", "indices"], ["z"]))
    filled = fill(model, weights, pack=True)
    assert {tensor.name for tensor in filled.graph.initializer} == {"w" + "m", "w" + "v", "indices"}


def test_session_creation_leaves_nothing_of_the_unpacking(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((50, 30), np.float32) * (generator.random((50, 30)) < 0.1)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    model = fill(reader(weights.shape), {"w": weights}, pack=True)
    onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["Mul"]


def test_damaged_parts_are_refused() -> None:
    model = fill(reader((40, 40)), {"w": np.eye(40, dtype=np.float32)}, pack=True)
    values = next(tensor for tensor in model.graph.initializer if tensor.name == "wv")
    values.raw_data = np.float32(3).tobytes() + values.raw_data[4:]
    with pytest.raises(ValueError, match=r"w reads 3.0 where a weight is pruned"):
        tensors(model)
