"""Which module of a network made which calls of its traced graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import Node


class Calls:
    """The calls of a traced network, by the modules in whose `forward` they were made."""

    def __init__(self, program: ExportedProgram, network: nn.Module) -> None:
        signature = program.graph_signature
        self.network = network
        self.tensors: Mapping[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        """The names of parameters and buffers by the names that the graph has for them."""
        self.within: dict[str, list[Node]] = defaultdict(list)
        """By the path of a module, what it or a module that it called has called, in order."""
        for node in program.graph.nodes:
            if node.op == "call_function":
                for path in dict.fromkeys(_stack(node)):
                    self.within[path].append(node)

    def caller(self, node: Node) -> tuple[str, nn.Module]:
        """Path and module whose own `forward` made this call."""
        path = _stack(node)[-1]
        return path, self.network.get_submodule(path)

    def child(self, path: str, node: Node) -> str | None:
        """The module that the one at `path` called for this, by its path from there; None: it made the call itself."""
        stack = _stack(node)
        inner = stack[stack.index(path) + 1 :]
        return inner[0].removeprefix(f"{path}.") if inner else None

    def then(self, path: str, value: Node, before: Collection[Node]) -> tuple[str, ...] | None:
        """The children that a module calls after it has computed `value`, each on what the one before it gave, and the
        last of which gives its result. None: it does something else.

        before: its calls up to `value`, and that one. Empty where `value` is its result.
        """
        rest = [node for node in self.within[path] if node not in before]
        names, used = [], {self.child(path, node) for node in before}
        while rest:
            name = self.child(path, rest[0])
            if name is None or "." in name or name in used:
                return None
            calls = [node for node in rest if self.child(path, node) == name]
            given = {one for node in calls for one in node.all_input_nodes if one not in calls}
            results = [node for node in calls if not node.users.keys() <= set(calls)]
            alone = {one for one in given if one.name not in self.tensors} == {value} and len(results) == 1
            if not alone or rest[: len(calls)] != calls or not value.users.keys() <= set(calls):
                return None
            names.append(name)
            used.add(name)
            value, rest = results[0], rest[len(calls) :]
        return tuple(names)


def _stack(node: Node) -> list[str]:
    """The paths of the modules in whose `forward` a call was made, the outermost first."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {"": ("", None)}).values()]


def overwritten(node: Node) -> bool:
    """Whether something changes an activation in place, so that not all that read it read the same."""
    schemas = [getattr(user.target, "_schema", None) for user in node.users if user.args[0] is node]
    return any(schema is not None and schema.is_mutable for schema in schemas)
