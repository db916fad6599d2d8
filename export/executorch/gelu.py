"""The tanh form of GELU in operators that XNNPACK has: its delegate computes the exact form for both, 4.7e-4 off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node


def spell_out_tanh_gelu(program: ExportedProgram) -> None:
    """Replaces each `gelu(x, approximate="tanh")` of a traced network in place.

    By x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), as torch.nn.GELU defines it.
    """
    import torch

    graph = program.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.gelu.default and node.kwargs.get("approximate") == "tanh":
            with graph.inserting_before(node):
                node.replace_all_uses_with(_spelled_out(node))
            graph.erase_node(node)
    program.graph_module.recompile()


def _spelled_out(gelu: Node) -> Node:
    import torch

    add, mul, tanh = torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.tanh.default

    def call(operator: Any, *operands: Any) -> Node:
        made = gelu.graph.call_function(operator, operands)
        made.meta = {**gelu.meta}  # the same shape, module and line
        return made

    x = gelu.args[0]
    cube = call(mul, call(mul, x, x), x)
    inner = call(mul, call(add, x, call(mul, cube, 0.044715)), math.sqrt(2 / math.pi))
    return call(mul, call(mul, x, 0.5), call(add, call(tanh, inner), 1.0))
