"""Rewriting what Core ML's graph cannot express of PyTorch's: aliases, and views of more than five dimensions.

A vision transformer cuts feature maps into windows by a view of six dimensions, [batch, rows, height, columns, width,
channels], which it permutes and views again. A file's batch is one: without the dimensions of one, five are left.
(coremltools itself takes one permutation between two views, and no longer chain.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

RANK = 5
"""The most dimensions that a tensor of a Core ML program has."""
aten = torch.ops.aten
ALIASES = (aten.alias.default, torch.ops.prims.view_of.default)
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
SAME = (aten.clone.default, aten.contiguous.default)


def without_what_core_ml_lacks(program: ExportedProgram) -> ExportedProgram:
    """Rewrites a program's graph in place to compute the same without aliases and with at most five dimensions.

    A view that needs more than five dimensions stays, and coremltools names it when it refuses it.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in ALIASES:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    kept: dict[Node, list[int]] = {}
    for node in graph.nodes:
        if (axes := _axes(node, kept)) is not None:
            kept[node] = axes
    if all(_reads_any_rank(user, kept) for node in kept for user in node.users):
        for node, axes in kept.items():
            _lower(node, axes, kept)
    program.graph_module.recompile()
    return program


def _axes(node: Node, kept: dict[Node, list[int]]) -> list[int] | None:
    """The dimensions that are left of a node's value when some of size one are dropped; None where none is dropped."""
    source: Any = node.args[0] if node.args else None
    if node.target in VIEWS:
        shape = node.meta["val"].shape
        return [axis for axis, size in enumerate(shape) if size != 1] if len(shape) > RANK else None
    if source not in kept:
        return None
    if node.target in SAME:
        return kept[source]
    if (order := _order(node)) is not None:
        return [axis for axis, origin in enumerate(order) if origin in kept[source]]
    return None


def _order(node: Node) -> list[int] | None:
    """The order in which a permutation's output has the dimensions of its input; None for any other node."""
    rank = node.meta["val"].dim() if isinstance(node.meta.get("val"), torch.Tensor) else 0
    arguments: tuple[Any, ...] = node.args
    if node.target is aten.permute.default:
        return [axis % rank for axis in arguments[1]]
    if node.target is aten.transpose.int:
        one, other = (axis % rank for axis in arguments[1:3])
        order = list(range(rank))
        order[one], order[other] = other, one
        return order
    return None


def _reads_any_rank(user: Node, kept: dict[Node, list[int]]) -> bool:
    return user in kept or user.target in VIEWS


def _lower(node: Node, axes: list[int], kept: dict[Node, list[int]]) -> None:
    value = node.meta["val"]
    shape = [value.shape[axis] for axis in axes]
    if node.target in VIEWS:
        node.args = (node.args[0], shape)
    elif (order := _order(node)) is not None:
        source = kept[node.args[0]]  # type: ignore[index]
        node.target = aten.permute.default
        node.args = (node.args[0], [source.index(order[axis]) for axis in axes])
    with value.fake_mode:
        node.meta["val"] = value.reshape(shape)
