"""Operators that XNNPACK's delegate computes otherwise or refuses, spelled out in others that it has.

Its GELU is the exact form for the tanh form too, 4.7e-4 off. Its PReLU takes images alone, tensors of four dimensions.
`var_mean` is none of the operators that ExecuTorch lowers; `var` and `mean` are. Where one decoding of int8 is read by
several calls, those that compute in float are given the codes; and a number without dimensions can't be decoded at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dwindle.export.w8a8_convert import is_call

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

_IMAGE = 4
"""The dimensions of a batch of images."""
_ROUNDING, _DECODING = "quantize_per_tensor.default", "dequantize_per_tensor.default"
"""The calls that make codes of int8 of a value, and a value of its codes."""


def spell_out(program: ExportedProgram) -> None:
    """Replaces, in place, each `gelu(x, approximate="tanh")`, PReLU of anything but images, and `var_mean`; and has
    each call that reads int8 decode it for itself."""
    import torch

    graph = program.graph
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            if node.target is torch.ops.aten.gelu.default and node.kwargs.get("approximate") == "tanh":
                spelled = _gelu(node)
            elif node.target is torch.ops.aten.prelu.default and node.meta["val"].dim() != _IMAGE:
                spelled = _prelu(node)
            elif getattr(node.target, "overloadpacket", None) is torch.ops.aten.var_mean:
                _var_mean(node)
                continue
            elif is_call(node, _DECODING) and is_call(node.args[0], _ROUNDING) and not node.meta["val"].dim():
                spelled = node.args[0].args[0]
            else:
                continue
        node.replace_all_uses_with(spelled)
        graph.erase_node(node)
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            if is_call(node, _DECODING):
                _decode_for_each(node)
            elif getattr(node.target, "is_view", False) and is_call(node.args[0], _DECODING):
                _round_before(node)
    program.graph_module.recompile()


def _gelu(gelu: Node) -> Node:
    """x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³))), as torch.nn.GELU defines its tanh form."""
    import torch

    add, mul, tanh = torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.tanh.default
    x = gelu.args[0]
    cube = _call(gelu, mul, _call(gelu, mul, x, x), x)
    inner = _call(gelu, mul, _call(gelu, add, x, _call(gelu, mul, cube, 0.044715)), math.sqrt(2 / math.pi))
    return _call(gelu, mul, _call(gelu, mul, x, 0.5), _call(gelu, add, _call(gelu, tanh, inner), 1.0))


def _prelu(prelu: Node) -> Node:
    """max(x, 0) - weight · max(-x, 0), the weight one for each element of dimension 1."""
    import torch

    aten = torch.ops.aten
    x, weight = prelu.args
    behind = max(prelu.meta["val"].dim() - 2, 0)
    if behind and weight.meta["val"].numel() > 1:  # type: ignore[union-attr]
        sizes = [-1, *[1] * behind]
        shaped = _call(prelu, aten.view.default, weight, sizes)
        shaped.meta["val"] = weight.meta["val"].view(sizes)  # type: ignore[union-attr]
        weight = shaped
    below = _call(prelu, aten.mul.Tensor, _call(prelu, aten.relu.default, _call(prelu, aten.neg.default, x)), weight)
    return _call(prelu, aten.sub.Tensor, _call(prelu, aten.relu.default, x), below)


def _var_mean(both: Node) -> None:
    """Variance and mean one by one."""
    import torch

    aten, form = torch.ops.aten, both.target._overloadname  # type: ignore[union-attr]
    x, *rest = both.args
    over = None if form == "default" or not rest else rest[0]
    keep = both.kwargs.get("keepdim", rest[2] if form == "dim" and len(rest) > 2 else False)
    for part in list(both.users):  # each takes one of the two
        if part.args[1] == 0:
            spelled = _call(part, getattr(aten.var, form), *both.args)
            spelled.kwargs = both.kwargs
        else:
            spelled = _call(part, aten.mean.dim, x, over, keep)
        part.replace_all_uses_with(spelled)
        both.graph.erase_node(part)
    both.graph.erase_node(both)


def _decode_for_each(decoded: Node) -> None:
    for user in list(decoded.users)[1:]:
        user.replace_input_with(decoded, decoded.graph.node_copy(decoded))


def _round_before(view: Node) -> None:
    """Has decoded values that are only moved and then rounded to another scale, as before a layer that reads them
    unsqueezed, be rounded to that before they are moved: XNNPACK moves the codes and has one scale for both."""
    decoded: Any = view.args[0]
    for rounding in list(view.users):
        if is_call(rounding, _ROUNDING) and rounding.args[1:] != decoded.args[1:]:
            codes = _call(decoded, rounding.target, decoded, *rounding.args[1:])
            again = _call(decoded, decoded.target, codes, *rounding.args[1:])
            rounding.replace_input_with(view, _call(view, view.target, again, *view.args[1:]))


def _call(like: Node, operator: Any, *operands: Any) -> Node:
    made = like.graph.call_function(operator, operands)
    made.meta = {**like.meta}  # the same shape, module and line
    return made
