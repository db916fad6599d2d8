"""2:4 sparsity on NVIDIA's sparse tensor cores: which layers of a program can use them, and the program that does.

The cores skip the two zeros in each four neighbours along the sum of a matrix product (Mishra et al. 2021, Accelerating
Sparse Deep Neural Networks, arXiv:2104.08378). PyTorch has such products of matrices only, so that a convolution
becomes one: its windows as columns, in the order in which its weights lie, the input channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

ROWS, COLUMNS = 32, 64
"""What both of PyTorch's libraries for it, cuSPARSELt and CUTLASS, take in fp16 are multiples of these."""
_GUARDS = "_guards_fn"
"""What torch.export puts first in a program, to check that its inputs are fp32, say."""


def layers(program: GraphModule) -> list[str]:
    """The weights that the cores can compute with, by name: 2:4 along the input channels, and large enough."""
    return [name for _, name in _layers(program)]


def sparse(program: GraphModule, packed: Callable[[Tensor], Tensor]) -> GraphModule:
    """The program with those layers computed from what `packed` makes of each weight, a matrix (rows, columns).

    Changes the program in place; what is in the CPU's memory or fp32 stays so. Programs take a batch of any size where
    the rest of them does.
    """
    for node in [node for node in program.graph.nodes if node.target == _GUARDS]:
        program.graph.erase_node(node)
    for number, (node, name) in enumerate(_layers(program)):
        weight, bias = _tensor(program, name), _argument(node, 2, "bias", None)
        layer = Product(packed(_matrix(weight)), tuple(weight.shape), _geometry(node))
        program.add_submodule(f"product_{number}", layer)
        with program.graph.inserting_after(node):
            instead = program.graph.call_module(f"product_{number}", (node.args[0], bias))
        node.replace_all_uses_with(instead)
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.recompile()
    program.delete_all_unused_submodules()
    return program


class Product(nn.Module):
    """A linear layer or convolution as the product of its weights, in a form of their own, with columns."""

    def __init__(self, matrix: Tensor, shape: tuple[int, ...], geometry: dict[str, Any]) -> None:
        super().__init__()
        self.matrix, self.shape, self.geometry = matrix, shape, geometry

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if len(self.shape) == 2:
            flat = x.reshape(-1, x.shape[-1])
            y = torch.mm(self.matrix, flat.t().contiguous()).t().reshape(*x.shape[:-1], -1)
            return y if bias is None else y + bias
        kernel = self.shape[2:]
        columns = functional.unfold(x, kernel, **self.geometry)  # (batch, channels · kernel, places)
        batch, height, places = columns.shape
        ordered = columns.view(batch, self.shape[1], -1, places).transpose(1, 2).reshape(batch, height, places)
        y = torch.mm(self.matrix, ordered.transpose(0, 1).reshape(height, batch * places).contiguous())
        rows, lines = y.shape[0], self._length(x, 0)
        y = y.reshape(rows, batch, lines, -1).transpose(0, 1)
        return y if bias is None else y + bias.view(-1, 1, 1)

    def _length(self, x: Tensor, side: int) -> int:
        """The length of one side of the output, by the formula in torch.nn.Unfold's documentation."""
        stride, padding, dilation = (self.geometry[name][side] for name in ("stride", "padding", "dilation"))
        reach = dilation * (self.shape[2 + side] - 1) + 1
        return int((x.shape[2 + side] + 2 * padding - reach) // stride + 1)


def _layers(program: GraphModule) -> list[tuple[Node, str]]:
    kinds = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    calls = [node for node in program.graph.nodes if node.target in kinds and node.args[1].op == "get_attr"]
    named = [(node, str(node.args[1].target)) for node in calls]
    return [(node, name) for node, name in named if _groups(node) == 1 and _fits(_tensor(program, name))]


def _fits(weight: Tensor) -> bool:
    matrix = _matrix(weight)
    if matrix.shape[0] % ROWS or matrix.shape[1] % COLUMNS or weight.shape[1] % 4:
        return False
    return bool(((matrix.reshape(-1, 4) != 0).sum(1) <= 2).all())


def _matrix(weight: Tensor) -> Tensor:
    """A weight as (outputs, inputs), input channels last, so that four neighbours are of one place in the kernel."""
    return weight.detach().movedim(1, -1).reshape(weight.shape[0], -1).contiguous()


def _tensor(program: GraphModule, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    tensor: Tensor = getattr(program.get_submodule(owner), last)
    return tensor


def _argument(node: Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _groups(node: Node) -> int:
    return int(_argument(node, 6, "groups", 1))


def _geometry(node: Node) -> dict[str, Any]:
    given = {"stride": (3, [1, 1]), "padding": (4, [0, 0]), "dilation": (5, [1, 1])}
    if node.target is torch.ops.aten.linear.default:
        return {}
    return {name: tuple(_argument(node, place, name, default)) for name, (place, default) in given.items()}
