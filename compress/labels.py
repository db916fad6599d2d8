"""Which channels live and die together: integer labels carried through a traced network.

Every element of every activation gets a label. Ops that move data (view, cat, permute, a channel shuffle) are simply
run on the labels; ops that combine elements (add, mul) put the labels they meet into one class; convolutions, linear
layers and norms bind the labels they meet to (parameter, dimension, index). A class that is left is one unit: the
slices, all over the network, that have to be removed together. Whatever is not understood is pinned, that is, kept.

A label says two things about its element:

     0   a constant: nothing that can be removed reaches it
    +u   belongs to class u, and is zero once the writers of u are zero
    -u   belongs to class u, but is another constant then (the sigmoid of a zero)

Labels rarely vary along more than one dimension, so a label tensor has the shape of its activation but stride 0
wherever it does not vary: its storage, its `core`, is about as long as the activation has channels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer on its way into an op, as yet without labels."""

    name: str
    shape: torch.Size


@dataclass(frozen=True)
class Call:
    """One op of the trace: its arguments by name, with labels in the place of activations."""

    target: Any
    arguments: dict[str, Any]
    values: list[Tensor]  # what the op returns: fake tensors, looked at for shape and dtype
    module: str  # path of the innermost module whose forward makes this call
    owner: str  # class of that module
    dtypes: dict[str, torch.dtype]  # of the arguments that are activations

    @property
    def shape(self) -> torch.Size:
        return self.values[0].shape

    @property
    def op(self) -> str:
        return str(getattr(self.target, "overloadpacket", self.target)).removeprefix("aten.")

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def run(self, /, **changed: Any) -> Any:
        """The op itself, with some arguments changed."""
        arguments = self.arguments | changed
        formal = self.target._schema.arguments
        positional = [arguments[a.name] for a in formal if not a.kwarg_only]
        return self.target(*positional, **{a.name: arguments[a.name] for a in formal if a.kwarg_only})


Rule = Callable[["Labels", Call], Any]


@dataclass(frozen=True)
class Pinned:
    """Labels that stay, and why; `module` is where it was decided."""

    labels: Tensor
    reason: str
    module: str


@dataclass(frozen=True)
class Binding:
    """A dimension of a parameter or buffer, one label per index. Zeroing what a writer holds for a class
    zeroes the activations of that class; the other places only read them."""

    tensor: str
    dim: int
    labels: Tensor
    writes: bool


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one op: `each` times the number of kept labels of every factor."""

    module: str
    each: float
    factors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Literal:
    """Labels whose extent the module's own code may have written out as a number (`view`, `split`)."""

    labels: Tensor
    module: str
    owner: str


@dataclass
class Labels:
    """The labels handed out so far, and what the walk through the graph learnt about them."""

    count: int = 1
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pinned: list[Pinned] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    sheets: list[Tensor] = field(default_factory=list)
    leaves: dict[Parameter, Tensor] = field(default_factory=dict)
    here: Call | None = None

    def fresh(self, *shape: int) -> Tensor:
        """New labels, all different."""
        labels = torch.arange(self.count, self.count + torch.Size(shape).numel(), dtype=torch.int32)
        self.count += len(labels)
        return labels.view(shape)

    def fixed(self, shape: Sequence[int], reason: str) -> Tensor:
        """One new label for a whole activation that has to keep its shape."""
        labels = self.fresh(*[1] * len(shape)).expand(shape)
        self.pin(labels, reason)
        return labels

    def pin(self, labels: Tensor, reason: str) -> None:
        if (labels := core(labels).abs()).any():
            self.pinned.append(Pinned(labels, reason, self.here.module if self.here else ""))

    def tie(self, first: Tensor, *others: Tensor) -> None:
        """Puts labels that meet elementwise into one class; constants don't take part."""
        for other in others:
            a, b = (x.abs().reshape(-1) for x in torch.broadcast_tensors(first, other))
            if (differ := (a != b) & (a > 0) & (b > 0)).any():
                self.ties.append((a[differ], b[differ]))

    def channels(self, labels: Tensor, dim: int) -> Tensor:
        """One label per index along `dim`: whatever varies over the other dimensions is tied together."""
        size = labels.shape[dim]
        rows = core(labels).movedim(dim, 0)
        rows = rows.reshape(rows.shape[0], -1)
        row = rows.abs().amax(1)
        if rows.shape[1] > 1:
            self.tie(row[:, None], rows)
            row = torch.where((rows <= 0).any(1), -row, row)
        else:
            row = rows[:, 0]
        return row.expand(size)

    def bind(self, parameter: Parameter | None, dim: int, labels: Tensor, *, writes: bool) -> None:
        if parameter is not None:
            self.bindings.append(Binding(parameter.name, dim, labels.abs(), writes))

    def cost(self, each: float, *factors: Tensor) -> None:
        assert self.here is not None
        self.costs.append(Cost(self.here.module, each, tuple(factor.abs() for factor in factors)))

    def literal(self, labels: Tensor) -> None:
        assert self.here is not None
        if varying(labels):
            self.literals.append(Literal(core(labels).abs(), self.here.module, self.here.owner))

    def of(self, value: Any) -> Any:
        """Labels for an argument: a parameter that is used like an activation is one, with labels of its own."""
        if not isinstance(value, Parameter):
            return value
        if value not in self.leaves:
            self.leaves[value] = self.fresh(*value.shape)
            self.sheets.append(self.leaves[value])
        return self.leaves[value]

    def walk(self, program: ExportedProgram, rule_of: Callable[[Node], Rule]) -> None:
        """Carries labels from the inputs to the outputs, `rule_of(node)` deciding at each op."""
        signature = program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        known: dict[Node, Any] = {}
        last_use = {used: node for node in program.graph.nodes for used in node.all_input_nodes}
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder" and isinstance(value, Tensor):
                if node.name in stored:
                    known[node] = Parameter(stored[node.name], value.shape)
                elif node.name not in signature.inputs_to_lifted_tensor_constants:
                    known[node] = self.fixed(value.shape, "an input of the model")
                elif value.numel() == 1:
                    known[node] = torch.zeros(value.shape, dtype=torch.int32)
                else:
                    known[node] = self.fixed(value.shape, "a tensor that is neither a parameter nor a buffer")
            elif node.op == "output":
                self.here = None
                for result in node.all_input_nodes:
                    self.pin(self.of(known.get(result, _NOTHING)), "an output of the model")
            elif node.op == "call_function":
                known[node] = self._step(node, known, rule_of)
            for used in node.all_input_nodes:
                if last_use[used] is node:
                    known.pop(used, None)
        self.here = None

    def _step(self, node: Node, known: dict[Node, Any], rule_of: Callable[[Node], Rule]) -> Any:
        """The labels of what one op returns."""
        if node.target is operator.getitem:
            source, index = node.args
            return known[source][index]  # type: ignore[index]
        self.here = call = _call(node, known)
        if not call.values:
            return None
        result = rule_of(node)(self, call)
        several = isinstance(result, list | tuple)
        labels = [compact(x) for x in (result if several else [result])]
        # A cut leaves a block of every tensor: labels that vary along two dimensions have to be settled in the end.
        self.sheets.extend(core(x).abs() for x in labels if len(varying(x)) > 1)
        self._written_in_place(node, known, labels[0])
        return labels if several else labels[0]

    def _written_in_place(self, node: Node, known: dict[Node, Any], after: Tensor) -> None:
        """`x.add_(y)`: from here on x is the result. If x is a view, what it is a view of changes unseen."""
        schema = getattr(node.target, "_schema", None)
        target = node.args[0] if schema is not None and schema.is_mutable and node.args else None
        if not isinstance(target, Node) or not isinstance(before := known.get(target), Tensor):
            return
        seen_through = getattr(target.target, "_schema", None)
        is_view = target.target is operator.getitem or (
            seen_through is not None and not seen_through.is_mutable and any(r.alias_info for r in seen_through.returns)
        )
        if is_view and not torch.equal(before, after):
            self.pin(before, "written in place through a view")
            self.pin(after, "written in place through a view")
        known[target] = after

    def bind_leaves(self) -> None:
        """To be called after the last walk: a parameter that is used like an activation is bound along the dimension
        in which its classes vary in the end."""
        root, _ = self.solve()
        for parameter, labels in self.leaves.items():
            final = compact(root[labels.long()])
            along = [*varying(final), *sorted(range(final.dim()), key=lambda dim: -parameter.shape[dim])][:1]
            for dim, size in enumerate(parameter.shape):
                if dim in along and final.any():
                    self.bind(parameter, dim, labels.movedim(dim, 0).reshape(size, -1)[:, 0], writes=True)
                else:  # its other uses must not cut what this one needs whole
                    self.bind(parameter, dim, self.fixed((size,), "used whole elsewhere"), writes=False)

    def solve(self) -> tuple[Tensor, Tensor]:
        """The class of every label, 0 for what stays, and for what stays an index into `pinned`: both int32[count].

        A tensor whose classes vary along two dimensions could be left with a hole by a cut, so its classes are tied
        along all dimensions but the one with most of them, until none is left. Two bindings of one dimension (a layer
        called twice) tie as well.
        """
        first: dict[tuple[str, int], Tensor] = {}
        for binding in self.bindings:
            other = first.setdefault((binding.tensor, binding.dim), binding.labels)
            self.tie(other, binding.labels)
            self._stays_if_constant(other, binding.labels)
        while True:
            root = _classes(self.count, self.ties)
            why = torch.full((self.count,), -1, dtype=torch.int32)
            for index, pin in reversed(list(enumerate(self.pinned))):
                why[root[pin.labels.long()].long()] = index
            why = why[root.long()]
            root = torch.where((why >= 0) | (root == 0), 0, root)
            known = len(self.ties), len(self.pinned)
            for sheet in self.sheets:
                self._flatten(compact(root[sheet.long()]))
            if known == (len(self.ties), len(self.pinned)):
                return root, why

    def _flatten(self, classes: Tensor) -> None:
        """Ties classes until they vary along one dimension only."""
        if len(dims := varying(classes)) > 1:
            distinct = {d: len(torch.unique(core(classes).movedim(d, 0).flatten(1), dim=0)) for d in dims}
            rows = core(classes).movedim(max(dims, key=distinct.__getitem__), 0).flatten(1)
            self.tie(rows.amax(1)[:, None], rows)
            self._stays_if_constant(rows.amax(1)[:, None], rows)

    def _stays_if_constant(self, a: Tensor, b: Tensor) -> None:
        """What has to go with a constant cannot go."""
        a, b = torch.broadcast_tensors(a, b)
        if (mixed := (a == 0) != (b == 0)).any():
            self.pin((a.abs() + b.abs())[mixed], "tied to channels that stay")


_NOTHING = torch.zeros((), dtype=torch.int32)


def varying(labels: Tensor) -> list[int]:
    """The dimensions along which labels vary."""
    return [
        d for d, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)) if size > 1 and stride
    ]


def core(labels: Tensor) -> Tensor:
    """The labels themselves: size 1 in every dimension in which they do not vary."""
    for dim in set(range(labels.dim())) - set(varying(labels)):
        labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return labels


def compact(labels: Tensor) -> Tensor:
    """The same labels, with stride 0 wherever they do not vary, and no more storage than that takes."""
    shape = labels.shape
    labels = core(labels)
    for dim in varying(labels):
        if (labels == labels.narrow(dim, 0, 1)).all():
            labels = labels.narrow(dim, 0, 1)
    return labels.clone(memory_format=torch.contiguous_format).expand(shape)


def spoiled(labels: Tensor) -> Tensor:
    """The same classes, no longer zero where they are masked."""
    return (-core(labels).abs()).expand(labels.shape)


def _call(node: Node, known: dict[Node, Any]) -> Call:
    """The node with its arguments named by the op's schema, defaults filled in."""

    def resolve(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [resolve(item) for item in value]
        return known.get(value) if isinstance(value, Node) else value

    schema = getattr(node.target, "_schema", None)
    formal = schema.arguments if schema is not None else ()
    names = [argument.name for argument in formal] or [str(position) for position in range(len(node.args))]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    unset = {a.name: a.default_value for a in formal if a.has_default_value() and a.name not in given}
    value = node.meta.get("val")
    module, owner = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1]
    return Call(
        target=node.target,
        arguments={name: resolve(argument) for name, argument in given.items()} | unset,
        values=[v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, Tensor)],
        module=module.partition("@")[0],
        owner=owner if isinstance(owner, str) else f"{owner.__module__}.{owner.__qualname__}",
        dtypes={
            name: argument.meta["val"].dtype
            for name, argument in given.items()
            if isinstance(argument, Node) and isinstance(argument.meta.get("val"), Tensor)
        },
    )


def _classes(count: int, ties: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Union-find on all ties at once: hook the larger root to the smaller, shorten every path, until nothing moves."""
    root = torch.arange(count, dtype=torch.int32)
    if not ties:
        return root
    a, b = (torch.cat(side).long() for side in zip(*ties, strict=True))
    while True:
        low, high = torch.minimum(root[a], root[b]), torch.maximum(root[a], root[b])
        if torch.equal(low, high):
            return root
        root.scatter_reduce_(0, high.long(), low, "amin")
        while not torch.equal(root, shorter := root[root.long()]):
            root = shorter
