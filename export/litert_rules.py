"""What XNNPACK asks of a graph before it runs it by sparse kernels, where the converter writes it another way."""

from __future__ import annotations

import copy
import math
from typing import Any

RANK = 4
"""Of feature maps. XNNPACK rewrites a graph for sparse kernels only where all that touches them has it."""


def suit_sparse_kernels(model: Any) -> None:
    """Gives numbers that feature maps are added to or multiplied by the rank of these, in place."""
    from ai_edge_litert import schema_py_generated as schema

    operators = schema.BuiltinOperator
    arithmetic = {operators.ADD, operators.SUB, operators.MUL, operators.DIV, operators.MAXIMUM, operators.MINIMUM}
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            if max(code.builtinCode, code.deprecatedBuiltinCode) not in arithmetic:
                continue
            if len(graph.tensors[operation.outputs[0]].shape) != RANK:
                continue
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
