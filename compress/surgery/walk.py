"""Carries labels through a traced network, op by op."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dwindle.compress.macs import count_operator
from dwindle.compress.surgery.computed import computed_weights
from dwindle.compress.surgery.labels import Labels, Parameter, compact, constants, core, varying
from dwindle.compress.surgery.modules import ModuleCall, module_calls


@dataclass(frozen=True)
class Call:
    """One op of the trace: its arguments by name, with labels in the place of activations."""

    target: Any
    arguments: dict[str, Any]
    values: list[Tensor]
    """What the op returns: tensors without data, for their shapes."""
    dtypes: dict[str, torch.dtype]
    """Of the arguments that are activations or parameters."""
    module: str
    """Path of the innermost module whose forward makes the call."""
    owner: str
    """Class of that module."""
    around: tuple[str, str] = ("", "")
    """Path and class of the module that calls that module."""
    macs: Callable[[], int] = lambda: 0
    """Counts the multiply-accumulates of the op."""

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def op(self) -> str:
        return str(getattr(self.target, "overloadpacket", self.target)).removeprefix("aten.")

    @property
    def shape(self) -> torch.Size:
        return self.values[0].shape

    def run(self, /, **changed: Any) -> Any:
        """The op itself, with some arguments changed."""
        arguments, formal = self.arguments | changed, self.target._schema.arguments
        positional = [arguments[a.name] for a in formal if not a.kwarg_only]
        return self.target(*positional, **{a.name: arguments[a.name] for a in formal if a.kwarg_only})

    def activations(self, labels: Labels) -> list[Tensor]:
        """Labels of all arguments that have any, those in lists too."""
        found: list[Tensor] = []
        each(lambda v: found.append(labels.of(v)) if isinstance(v, Tensor | Parameter) else None, self.arguments)
        return found


Rule = Callable[[Labels, Call], Any]
"""Returns the labels of what the op returns: a tensor, or a list of them."""


def unknown(labels: Labels, call: Call) -> Any:
    """The rule for an op that is not understood: pins whatever goes in, and what comes out."""
    where = f" in {call.module}" if call.module else ""
    labels.cost(call.macs())
    given = call.activations(labels)
    if not any(value.any() for value in given):
        return [constants(value.shape) for value in call.values]
    for value in given:
        labels.pin(value, f"{call.op}{where} is not an op whose channels can be followed")
    return [labels.fixed(value.shape, f"comes out of {call.op}") for value in call.values]


def walk(
    labels: Labels,
    program: ExportedProgram,
    rule_of: Callable[[Node], Rule],
    module_rule: Callable[[str], Rule | None] = lambda kind: None,
) -> None:
    """Follows the program from its inputs to its outputs, which are both pinned; `rule_of` tells what an op does, and
    `module_rule` what a class of modules does as a whole, where it says so."""
    known: dict[Node, Any] = {}
    calls = module_calls(program, lambda kind: module_rule(kind) is not None)
    weights = computed_weights(program)
    last_use = {used: node for node in program.graph.nodes for used in node.all_input_nodes}
    for node in program.graph.nodes:
        if (whole := calls.get(node)) is not None:
            if node is whole.nodes[-1] and (rule := module_rule(whole.kind)) is not None:
                _through_module(labels, program, whole, known, rule)
            continue
        if node.op == "placeholder" and isinstance(node.meta.get("val"), Tensor):
            known[node] = _given(labels, program, node)
        elif node in weights:
            known[node] = weights[node]
        elif node.op == "call_function":
            known[node] = _step(labels, node, known, rule_of)
        elif node.op == "output":
            for result in node.all_input_nodes:
                if known.get(result) is not None:
                    labels.pin(labels.of(known[result]), "an output of the model")
        for used in node.all_input_nodes:
            if last_use[used] is node:
                known.pop(used, None)


def _through_module(
    labels: Labels, program: ExportedProgram, whole: ModuleCall, known: dict[Node, Any], rule: Rule
) -> None:
    """The labels of what a module gives, by the rule for all of it."""
    stored = {name: _given(labels, program, node) for name, node in whole.parameters.items()}
    outputs = [node.meta["val"] for node in whole.outputs]
    call = Call(
        target=whole.kind,
        arguments={str(index): labels.of(known[node]) for index, node in enumerate(whole.inputs)} | stored,
        values=[value for value in tree_leaves(outputs) if isinstance(value, Tensor)],
        dtypes={},
        module=whole.path,
        owner=whole.kind,
        macs=lambda: sum(map(_macs, whole.nodes)),
    )
    labels.module, labels.owner = call.module, call.owner
    results = iter(rule(labels, call))
    for node, value in zip(whole.outputs, outputs, strict=True):
        several = isinstance(value, list | tuple)
        given = [next(results) for _ in (value if several else [value])]
        known[node] = given if several else given[0]


def _given(labels: Labels, program: ExportedProgram, node: Node) -> Any:
    """A parameter or buffer, an input, or a constant of the code."""
    signature, shape = program.graph_signature, node.meta["val"].shape
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    if node.name in stored:
        return Parameter(stored[node.name], shape)
    if node.name not in signature.inputs_to_lifted_tensor_constants:
        return labels.fixed(shape, "an input of the model")
    return constants(shape) if shape.numel() == 1 else labels.fixed(shape, "neither a parameter nor a buffer")


def _step(labels: Labels, node: Node, known: dict[Node, Any], rule_of: Callable[[Node], Rule]) -> Any:
    """The labels of what one op returns."""
    if node.target is operator.getitem:
        source, index = node.args
        return known[source][index]  # type: ignore[index]
    call = _call(node, known)
    if not call.values:
        return None
    labels.module, labels.owner = call.module, call.owner
    rule = rule_of(node)
    parts = _parts(node) if rule is unknown else None
    result = rule(labels, call) if parts is None else _through(labels, parts, node, known, rule_of)
    results = [compact(x) for x in (result if isinstance(result, list | tuple) else [result])]
    labels.sheets.extend(core(x).abs() for x in results if len(varying(x)) > 1)
    _written_in_place(labels, node, known, results[0])
    return results if isinstance(node.meta["val"], list | tuple) else results[0]


def _parts(node: Node) -> GraphModule | None:
    """The simpler ops that an op is made of, as a graph of its tensors; None where it isn't."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._can_decompose():
        return None
    arguments, keywords, mode = _fake_arguments(node)
    leaves, spec = tree_flatten((arguments, keywords))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def run(*tensors: Tensor) -> Any:
        filled = dict(zip(places, tensors, strict=True))
        again, named = tree_unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
        return target(*again, **named)

    with suppress(Exception), torch.no_grad(), mode:
        graph = make_fx(run, _allow_non_fake_inputs=True)(*(leaves[i] for i in places))
        if not any(part.target is target for part in graph.graph.nodes):
            return graph
    return None


def _through(
    labels: Labels, parts: GraphModule, node: Node, known: dict[Node, Any], rule_of: Callable[[Node], Rule]
) -> Any:
    """The labels of what an op returns, carried through the ops that it is made of."""
    given = iter([known.get(leaf) for leaf in tree_leaves([node.args, node.kwargs]) if _is_tensor(leaf)])
    inside: dict[Node, Any] = {}
    for part in parts.graph.nodes:
        part.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
        if part.op == "placeholder":
            inside[part] = next(given)
        elif part.op == "get_attr":
            inside[part] = constants(getattr(parts, part.target).shape)
            part.meta.setdefault("val", getattr(parts, part.target))
        elif part.op == "call_function":
            inside[part] = _step(labels, part, inside, rule_of)
        elif part.op == "output":
            return each(lambda v: labels.of(inside[v]) if isinstance(v, Node) else v, part.args[0])
    return None


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Node) and isinstance(leaf.meta.get("val"), Tensor)


def _fake_arguments(node: Node) -> tuple[Any, Any, AbstractContextManager[Any]]:
    """The arguments of an op as the trace's own tensors, which have no data, and the mode to run it in."""
    given = [list(node.args), node.kwargs]
    arguments, keywords = each(lambda v: v.meta.get("val") if isinstance(v, Node) else v, given)
    modes = (getattr(value, "fake_mode", None) for value in tree_leaves([arguments, keywords]))
    return arguments, keywords, next((mode for mode in modes if mode is not None), nullcontext())


def _written_in_place(labels: Labels, node: Node, known: dict[Node, Any], after: Tensor) -> None:
    """`x.add_(y)`: from here on x is the result. If x is a view, what it is a view of changes unseen."""
    schema = getattr(node.target, "_schema", None)
    target = node.args[0] if schema is not None and schema.is_mutable and node.args else None
    if not isinstance(target, Node) or not isinstance(before := known.get(target), Tensor):
        return
    made_by = getattr(target.target, "_schema", None)
    is_view = target.target is operator.getitem or (
        made_by is not None and not made_by.is_mutable and any(value.alias_info for value in made_by.returns)
    )
    if is_view and not torch.equal(before, after):
        labels.pin(before, "written in place through a view")
        labels.pin(after, "written in place through a view")
    known[target] = after


def _call(node: Node, known: dict[Node, Any]) -> Call:
    """The node, its arguments named by the schema of the op and the defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    formal = schema.arguments if schema is not None else ()
    names = [argument.name for argument in formal] or [str(position) for position in range(len(node.args))]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    unset = {a.name: a.default_value for a in formal if a.has_default_value() and a.name not in given}
    value = node.meta.get("val")
    stack = [_named(*entry) for entry in (node.meta.get("nn_module_stack") or {"": ("", "")}).values()]
    return Call(
        target=node.target,
        arguments=each(lambda v: known.get(v) if isinstance(v, Node) else v, given) | unset,
        values=[v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, Tensor)],
        dtypes={
            name: argument.meta["val"].dtype
            for name, argument in given.items()
            if isinstance(argument, Node) and isinstance(argument.meta.get("val"), Tensor)
        },
        module=stack[-1][0],
        owner=stack[-1][1],
        around=stack[-2] if len(stack) > 1 else ("", ""),
        macs=lambda: _macs(node),
    )


def _named(module: str, owner: Any) -> tuple[str, str]:
    """A module's path, and the name of its class."""
    return module.partition("@")[0], owner if isinstance(owner, str) else f"{owner.__module__}.{owner.__qualname__}"


def _macs(node: Node) -> int:
    """The multiply-accumulates of an op, by running it on the trace's own tensors, which have no data."""
    arguments, keywords, mode = _fake_arguments(node)
    with suppress(Exception), mode:
        return count_operator(node.target, arguments, keywords)
    return 0  # an op of a kind that isn't run alone, such as a branch


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to what is in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: each(function, item) for key, item in value.items()}
    return [each(function, item) for item in value] if isinstance(value, list | tuple) else function(value)
