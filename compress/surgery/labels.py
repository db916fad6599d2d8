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

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer on its way into an op, as yet without labels."""

    name: str
    shape: torch.Size


@dataclass(frozen=True)
class Source:
    """A dimension of a parameter or buffer that a weight is computed from, index by index."""

    tensor: str
    dim: int
    silences: bool
    """Whether zeros at an index of it make the weight's zero."""


@dataclass(frozen=True)
class Computed(Parameter):
    """A layer's weight that the model computes in its forward, by the name of the parameter of its own shape."""

    sources: tuple[tuple[Source, ...], ...] = ()
    """By dimension of the weight, what goes where its channels go."""
    mixed: tuple[bool, ...] = ()
    """By dimension, whether a channel that goes changes what the others' weights come to."""

    def can_be_silenced(self, dim: int) -> bool:
        return any(source.silences for source in self.sources[dim])


@dataclass(frozen=True)
class Pinned:
    """Labels that stay, and why."""

    labels: Tensor
    reason: str


@dataclass(frozen=True)
class Binding:
    """A dimension of a parameter or buffer, one label per index. Zeroing what the writers hold for a class zeroes the
    activations of that class; the other places only read them."""

    tensor: str
    dim: int
    labels: Tensor
    writes: bool


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one op: `each` times the number of labels that are kept of every factor."""

    module: str
    each: float
    factors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Literal:
    """Labels whose extent the code of a module may have written out as a number (`view`, `split`). Those of several
    pieces are one list of numbers."""

    pieces: tuple[Tensor, ...]
    module: str
    owner: str
    rule: str = ""
    """What the rule is for that says so of these labels, where it is one of the user's own."""


@dataclass
class Labels:
    """The labels handed out so far, and what a walk through the graph learns about them."""

    count: int = 1
    inexact: bool = False
    """Whether channels may go that change what is left."""
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pinned: list[Pinned] = field(default_factory=list)
    approximated: list[Pinned] = field(default_factory=list)
    """Labels whose channels change what is left when they go, where that is allowed."""
    bindings: list[Binding] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    sheets: list[Tensor] = field(default_factory=list)
    """Labels that vary along two dimensions. A cut must not leave a hole in a tensor: see `solve`."""
    leaves: dict[Parameter, Tensor] = field(default_factory=dict)
    """Labels of parameters that are used like activations."""
    leaf_ranges: list[tuple[int, int]] = field(default_factory=list)
    """The same, as ranges of labels."""
    module: str = ""
    """Where the walk is: the path and the class of the innermost module whose forward is at work."""
    owner: str = ""

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

    def of(self, value: Any) -> Any:
        """Labels for an argument of an op; a parameter gets labels of its own, the same each time."""
        if not isinstance(value, Parameter):
            return value
        if isinstance(value, Computed):
            value = Parameter(value.name, value.shape)
        if value not in self.leaves:
            start = self.count
            self.leaves[value] = self.fresh(*value.shape)
            self.leaf_ranges.append((start, self.count))
            self.sheets.append(self.leaves[value])
        return self.leaves[value]

    def is_leaf(self, labels: Tensor) -> bool:
        """Whether these are a parameter's or buffer's own labels, perhaps cut, moved or masked, and nothing else."""
        given = core(labels).abs()
        given = given[given > 0]
        if not len(given):
            return False
        low, high = int(given.min()), int(given.max())
        return any(start <= low and high < stop for start, stop in self.leaf_ranges)

    def pin(self, labels: Tensor, reason: str) -> None:
        if (labels := core(labels).abs()).any():
            self.pinned.append(Pinned(labels, reason))

    def pin_inexact(self, labels: Tensor, reason: str) -> None:
        """For channels that change what is left when they go: they stay, unless that is allowed."""
        if not self.inexact:
            self.pin(labels, reason)
        elif (labels := core(labels).abs()).any():
            self.approximated.append(Pinned(labels, reason))

    def pin_spoiled(self, labels: Tensor) -> None:
        """For an op that sums over channels: what is removed must have been zero."""
        self.pin_inexact(
            labels.clamp(max=0), "a removed channel would leave a constant other than zero (a sigmoid, say)"
        )

    def tie(self, first: Tensor, *others: Tensor) -> None:
        """Puts labels that meet elementwise into one class. What meets a constant is not tied to anything."""
        for other in others:
            a, b = (x.abs().reshape(-1) for x in torch.broadcast_tensors(first, other))
            if (differ := (a != b) & (a > 0) & (b > 0)).any():
                self.ties.append((a[differ], b[differ]))

    def merge(self, labels: Tensor, dim: int) -> Tensor:
        """Ties everything along `dim`, and returns the one label that stands for it: size 1 there."""
        labels = core(labels)
        if labels.shape[dim] == 1:
            return labels
        one = labels.abs().amax(dim, keepdim=True)
        self.tie(one, labels)
        self.pin_where_constant(one, labels)
        return torch.where((labels < 0).any(dim, keepdim=True), -one, one)

    def pin_where_constant(self, a: Tensor, b: Tensor) -> None:
        """What would have to go together with a constant cannot go."""
        a, b = torch.broadcast_tensors(a, b)
        if (mixed := (a == 0) != (b == 0)).any():
            self.pin((a.abs() + b.abs())[mixed], "tied to channels that stay")

    def channels(self, labels: Tensor, dim: int) -> Tensor:
        """One label per index along `dim`: whatever varies over the other dimensions is merged."""
        rows = core(labels).movedim(dim, 0)
        return self.merge(rows.reshape(rows.shape[0], -1), 1)[:, 0].expand(labels.shape[dim])

    def bind(self, parameter: Parameter | None, dim: int, labels: Tensor, *, writes: bool) -> None:
        """Binds a dimension of a parameter, or of all that a weight is computed from."""
        if isinstance(parameter, Computed):
            for source in parameter.sources[dim]:
                self.bindings.append(Binding(source.tensor, source.dim, labels.abs(), writes and source.silences))
            if parameter.mixed[dim]:
                self.pin_inexact(labels, "the weight computed from one of them depends on the others")
        elif parameter is not None:
            self.bindings.append(Binding(parameter.name, dim, labels.abs(), writes))

    def cost(self, each: float, *factors: Tensor) -> None:
        self.costs.append(Cost(self.module, each, tuple(factor.abs() for factor in factors)))

    def literal(self, *labels: Tensor, rule: str = "", code: tuple[str, str] | None = None) -> None:
        """The extent of these labels may be a number in the code at hand, or in that of another module: its path and
        class."""
        module, owner = code or (self.module, self.owner)
        self.literals += [Literal((core(x).abs(),), module, owner, rule) for x in labels if varying(x)]

    def literals_of(self, pieces: Sequence[Tensor]) -> None:
        """The extents of these pieces may be a list of numbers in the code at hand."""
        self.literals.append(Literal(tuple(core(x).abs() for x in pieces), self.module, self.owner))

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

        A tensor whose classes vary along two dimensions could be left with a hole by a cut, so its classes are merged
        along all dimensions but the one with most of them, until none is left. Two bindings of one dimension (a layer
        called twice) tie as well.
        """
        first: dict[tuple[str, int], Tensor] = {}
        for binding in self.bindings:
            other = first.setdefault((binding.tensor, binding.dim), binding.labels)
            self.tie(other, binding.labels)
            self.pin_where_constant(other, binding.labels)
        while True:
            root = _classes(self.count, self.ties)
            why = torch.full((self.count,), -1, dtype=torch.int32)
            for index, pin in reversed(list(enumerate(self.pinned))):
                why[root[pin.labels.long()].long()] = index
            why = why[root.long()]
            root = torch.where((why >= 0) | (root == 0), 0, root)
            known = len(self.ties), len(self.pinned)
            for sheet in self.sheets:
                final = compact(root[sheet.long()])
                if len(dims := varying(final)) > 1:
                    distinct = {d: len(torch.unique(core(final).movedim(d, 0).flatten(1), dim=0)) for d in dims}
                    self.channels(final, max(dims, key=distinct.__getitem__))
            if known == (len(self.ties), len(self.pinned)):
                return root, why


def varying(labels: Tensor) -> list[int]:
    """The dimensions along which labels vary."""
    return [d for d, size in enumerate(labels.shape) if size > 1 and labels.stride(d)]


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


def constants(shape: Sequence[int]) -> Tensor:
    return torch.zeros((1,) * len(shape), dtype=torch.int32).expand(shape)


def spoiled(labels: Tensor) -> Tensor:
    """The same classes, no longer zero where they are silenced."""
    return (-core(labels).abs()).expand(labels.shape)


def along(row: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """One label per channel, as an activation of that shape."""
    return row.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)


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
