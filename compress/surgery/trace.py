"""The graph of a network, or one sentence on why there is none."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from dwindle.errors import UsageError
from dwindle.models.copies import copied

_REGIONS = (torch.ops.higher_order.wrap_with_autocast, torch.ops.higher_order.wrap_with_set_grad_enabled)
"""The ops by which torch.export calls the graph of what is computed under another mode."""


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...], *, training: bool = False) -> ExportedProgram:
    """What `model` does to the example inputs, in eval mode or in training. A copy of it is traced: the model itself
    is left as it was, whatever its forward keeps.

    Raises UsageError where masks are still attached, and where the trace fails, with the line of
    the model's code at which it does.
    """
    for name, module in model.named_modules():
        if any(isinstance(hook, prune.BasePruningMethod) for hook in module._forward_pre_hooks.values()):
            raise UsageError(
                f"layer {name!r} still computes its weights from a mask: make it permanent first "
                "(torch.nn.utils.prune.remove)",
                code="bad-model",
                option="model",
                name=name,
            )
    own = copied(model).train(training)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the model keeps from a call, which is the copy's
            program = torch.export.export(own, example_inputs, strict=False)
    except Exception as error:  # torch.export raises whatever the model's code and its own guards raise
        raise UsageError(_explain(error)) from error
    _open_regions(program)
    _refuse_open_shapes(program)
    return program


def _open_regions(program: ExportedProgram) -> None:
    """Puts the ops of `with torch.autocast(…)` and `torch.no_grad()`, which torch.export traces into graphs of their
    own, where these are called: channels go through them as through any other. Types are those that the trace found."""
    for _, one in reversed([*program.graph_module.named_modules()]):  # the inner before the outer
        if isinstance(one, GraphModule):
            for node in [node for node in one.graph.nodes if node.target in _REGIONS]:
                _open(program, one, node)


def _open(program: ExportedProgram, owner: GraphModule, node: Node) -> None:
    """Replaces the call of one region by the ops in it."""
    place = next(i for i, given in enumerate(node.args) if isinstance(given, Node) and given.op == "get_attr")
    handle, given = cast("Node", node.args[place]), iter(node.args[place + 1 :])
    region, known = owner.get_submodule(str(handle.target)), dict[Node, Any]()
    for part in cast("GraphModule", region).graph.nodes:
        if part.op == "placeholder":
            known[part] = next(given)
        elif part.op == "output":
            answers = [known.get(answer, answer) for answer in part.args[0]]
        else:
            with owner.graph.inserting_before(node):
                known[part] = owner.graph.node_copy(part, known.__getitem__)
            if part.op == "get_attr":
                known[part].target = f"{handle.target}.{part.target}"
    for user in list(node.users):
        answer = answers[cast("int", user.args[1])]  # each takes one of a region's outputs
        user.replace_all_uses_with(answer)
        program.graph_signature.replace_all_uses(user.name, answer.name)
        owner.graph.erase_node(user)
    owner.graph.erase_node(node)
    owner.graph.erase_node(handle)  # each region is called once


def _refuse_open_shapes(program: ExportedProgram) -> None:
    """A trace can get past non-maximum suppression, but what comes out has as many rows as the data will have it."""
    for node in program.graph.nodes:
        for value in tree_leaves(node.meta.get("val")):
            if isinstance(value, Tensor) and not all(isinstance(size, int) for size in value.shape):
                line = (node.meta.get("stack_trace") or "").strip().splitlines()[-1:]
                place = f" ({line[0].strip()})" if line else ""
                raise UsageError(_sentence(place, f"the shape of what {node.target} gives depends on the data"))


def _explain(error: Exception) -> str:
    """The last line outside torch that led to the error is the model's own."""
    torch_folder = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if torch_folder not in Path(f.filename).parents]
    theirs = [f for f in frames if f.filename != __file__]
    place = f" past {Path(theirs[-1].filename).name}:{theirs[-1].lineno} ({theirs[-1].line})" if theirs else ""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return _sentence(place, reason[:200])


def _sentence(place: str, reason: str) -> str:
    return (
        f"the model cannot be traced{place}: {reason}; channels can only be removed where torch.export can follow, so "
        "leave out steps that depend on the data, such as non-maximum suppression: wrap the part before them"
    )
