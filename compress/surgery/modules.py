"""Calls of whole modules in a traced graph, for those whose channels a rule of one's own follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: the part of the graph that its forward became."""

    kind: str
    """The module's class."""
    path: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    """What comes from outside, in the order in which it is used."""
    parameters: dict[str, Node]
    """The parameters and buffers that it uses, by their names in the module."""
    outputs: tuple[Node, ...]
    """What is used outside."""


def module_calls(program: ExportedProgram, ruled: Callable[[str], bool]) -> dict[Node, ModuleCall]:
    """The calls of modules of a class that is `ruled`, the outermost where one is inside another, by their nodes."""
    parts: dict[tuple[str, str, str], list[Node]] = {}
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {} if node.op == "call_function" else {}
        for key, (path, owner) in stack.items():
            kind = owner if isinstance(owner, str) else f"{owner.__module__}.{owner.__qualname__}"
            if ruled(kind):
                parts.setdefault((key, path, kind), []).append(node)
                break
    return {
        node: call for place, nodes in parts.items() for call in [_call(program, *place[1:], nodes)] for node in nodes
    }


def _call(program: ExportedProgram, path: str, kind: str, nodes: list[Node]) -> ModuleCall:
    signature, inside, path = program.graph_signature, set(nodes), path.partition("@")[0]
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    outside = dict.fromkeys(used for node in nodes for used in node.all_input_nodes if used not in inside)
    own = {stored[node.name].removeprefix(f"{path}."): node for node in outside if node.name in stored}
    constants = signature.inputs_to_lifted_tensor_constants
    given = [node for node in outside if node.name not in stored and node.name not in constants]
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    return ModuleCall(
        kind,
        path,
        tuple(nodes),
        tuple(node for node in given if isinstance(node.meta.get("val"), Tensor)),
        own,
        tuple(outputs),
    )
