"""Rewriting a converted graph so that XNNPACK runs it by sparse kernels, which take only some forms of a graph."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

RANK = 4
"""Of feature maps. XNNPACK rewrites a graph for sparse kernels only where all that touches them has it."""


def suit_sparse_kernels(model: Any) -> None:
    """Changes a graph in place: the same numbers at every output.

    Numbers that feature maps are added to or multiplied by get the rank of these. A mean over places is taken of
    feature maps as they are, channels last, not of those transposed first.
    """
    for graph in model.subgraphs:
        for operation in graph.operators:
            if _kind(model, operation) in _arithmetic():
                _raise_numbers(model, graph, operation)
        for operation in list(graph.operators):
            if _kind(model, operation) == _builtin("MEAN"):
                _mean_of_untransposed(model, graph, operation)


def _raise_numbers(model: Any, graph: Any, operation: Any) -> None:
    if len(graph.tensors[operation.outputs[0]].shape) != RANK:
        return
    inputs = list(operation.inputs)
    for position, index in enumerate(inputs):
        tensor = graph.tensors[index]
        shape = [] if tensor.shape is None else list(tensor.shape)
        if model.buffers[tensor.buffer].data is None or math.prod(shape) != 1 or len(shape) == RANK:
            continue
        number = copy.copy(tensor)  # others may need it as it is
        number.shape, number.hasRank = [1] * RANK, True
        graph.tensors.append(number)
        inputs[position] = len(graph.tensors) - 1
    operation.inputs = inputs


def _mean_of_untransposed(model: Any, graph: Any, mean: Any) -> None:
    """Where a mean is all that reads a transposed tensor, and what is left of that stays in order."""
    source, axes = (int(index) for index in mean.inputs)
    before = [one for one in graph.operators if source in one.outputs and _kind(model, one) == _builtin("TRANSPOSE")]
    readers = [one for one in graph.operators if source in one.inputs]
    if not before or len(readers) > 1 or source in graph.outputs or mean.builtinOptions.keepDims:
        return
    order, over = _integers(model, graph, before[0].inputs[1]), _integers(model, graph, axes)
    if order is None or over is None:
        return
    left = [axis for place, axis in enumerate(order) if place not in {one % len(order) for one in over}]
    if left != sorted(left):
        return
    own = copy.copy(graph.tensors[axes])
    model.buffers.append(copy.copy(model.buffers[own.buffer]))
    own.buffer = len(model.buffers) - 1
    model.buffers[own.buffer].data = np.frombuffer(np.array([order[one] for one in over], np.int32).tobytes(), np.uint8)
    graph.tensors.append(own)
    mean.inputs = [before[0].inputs[0], len(graph.tensors) - 1]
    graph.operators.remove(before[0])


def _integers(model: Any, graph: Any, index: int) -> list[int] | None:
    """A constant's values; None for what is computed, or of another type."""
    from ai_edge_litert import schema_py_generated as schema

    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema.TensorType.INT32:
        return None
    values: list[int] = np.frombuffer(bytes(data), np.int32).tolist()
    return values


def _kind(model: Any, operation: Any) -> int:
    code = model.operatorCodes[operation.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _builtin(name: str) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return int(getattr(schema.BuiltinOperator, name))


def _arithmetic() -> set[int]:
    return {_builtin(name) for name in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")}
