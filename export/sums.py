"""Convolutions of one input that are added up within other code, made one convolution where they stand.

Where such a sum is all that a module computes, `branches` replaces the module. Elsewhere, as in the `forward` of the
network itself, the largest of the convolutions takes over what the others compute, and those give nothing:

    self.act(self.large(x) + self.small(x) + x)   →   self.act(self.large(x) + 0 + x)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import reduce
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.fx import Node

from dwindle.export.branches import Term, largest_of, one_convolution
from dwindle.export.calls import Calls, overwritten
from dwindle.models.copies import copied


class Sum(NamedTuple):
    """Branches that the largest of their convolutions computes."""

    term: Term
    """What they add up to."""
    largest: str
    """The path of that convolution."""
    passing: tuple[str, ...]
    """The paths of layers that give what they are given from then on."""
    empty: tuple[str, ...]
    """The paths of layers that give nothing from then on."""

    @property
    def replaced(self) -> frozenset[str]:
        """The paths of the layers that the merged convolution stands for."""
        return frozenset((self.largest, *self.passing, *self.empty))


class Branch(NamedTuple):
    """A convolution, a batch norm or both, whose result is only added to others."""

    given: Node
    term: Term
    last: str
    """The path of the layer that gives the result."""
    before: str | None = None
    """The path of the convolution before a batch norm."""


class Nothing(nn.Module):
    """Gives 0, which changes no sum that it is added to."""

    def forward(self, _: Tensor) -> int:
        return 0


def summed(calls: Calls, network: nn.Module, inputs: tuple[Tensor, ...], taken: Collection[str]) -> tuple[Sum, ...]:
    """The sums of a traced network, in eval mode, that can be merged where they stand; none where the network does not
    run with them merged. taken: paths of layers that are replaced otherwise."""
    import torch

    found, seen = list[Sum](), set[Node]()
    for node in reversed(calls.within[""]):
        if node not in seen and _adds(node):
            found += _sums_at(list(_leaves(node, seen)), calls, taken)
    if not found:
        return ()
    tried = copied(network)
    try:
        add_up(tried, found)
        with torch.no_grad():
            tried(*inputs)
    except Exception:  # whatever the model's own code raises that looks at these layers or what they give
        return ()
    return tuple(found)


def add_up(network: nn.Module, sums: Sequence[Sum]) -> None:
    """Puts the merged convolutions into a network. A weight is zero where every branch has pruned it."""
    for one in sums:
        network.set_submodule(one.largest, one_convolution(one.term, one.largest, network).eval())
        for path in one.passing:
            network.set_submodule(path, nn.Identity())
        for path in one.empty:
            network.set_submodule(path, Nothing())


def _adds(node: Node) -> bool:
    import torch

    aten = torch.ops.aten
    return node.target in (aten.add.Tensor, aten.add_.Tensor) and not node.kwargs and node.args[0] is not node.args[1]


def _leaves(node: Node, seen: set[Node]) -> Iterator[Node]:
    """What a sum adds up, where nothing else reads it. seen: takes the sums that it is made of."""
    seen.add(node)
    for one in node.all_input_nodes:
        if len(one.users) == 1 and one.meta["val"].shape == node.meta["val"].shape:
            if _adds(one):
                yield from _leaves(one, seen)
            else:
                yield one


def _sums_at(leaves: Sequence[Node], calls: Calls, taken: Collection[str]) -> Iterator[Sum]:
    """The sums of branches that read one activation each."""
    of_one: dict[Node, list[Branch]] = defaultdict(list)
    for leaf in leaves:
        branch = _branch(leaf, calls)
        if branch is not None and not {branch.last, branch.before} & set(taken) and not overwritten(branch.given):
            of_one[branch.given].append(branch)
    for branches in of_one.values():
        term = reduce(lambda one, other: Term("sum", of=(one, other)), (branch.term for branch in branches))
        if len(branches) > 1 and (largest := largest_of(term, calls.network)) is not None:
            kept = next(branch for branch in branches if largest in (branch.last, branch.before))
            others = [branch for branch in branches if branch is not kept]
            passing = [kept.last] if kept.before else []
            passing += [branch.before for branch in others if branch.before]
            yield Sum(term, largest, tuple(passing), tuple(branch.last for branch in others))


def _branch(leaf: Node, calls: Calls) -> Branch | None:
    import torch

    args: Any = leaf.args
    if leaf.target is torch.ops.aten.batch_norm.default:
        path = _layer(leaf, calls, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        if path is None or args[5] is not False:
            return None
        inner = _branch(args[0], calls) if len(args[0].users) == 1 else None
        if inner is not None and inner.term.kind == "convolution":
            return Branch(inner.given, Term("norm", path, (inner.term,)), path, inner.last)
        return Branch(args[0], Term("norm", path, (Term("input"),)), path)
    path = _layer(leaf, calls, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    return Branch(args[0], Term("convolution", path), path) if path is not None else None


def _layer(node: Node, calls: Calls, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """The path of the layer whose only call in the network this is, of one of these classes and with weights of its
    own; None where that isn't so."""
    if node.op != "call_function":
        return None
    path, module = calls.caller(node)
    if type(module) not in kinds or len(calls.within[path]) != 1 or module._forward_hooks or module._forward_pre_hooks:
        return None
    stored = [one for one in node.all_input_nodes if one.name in calls.tensors]
    own = all(len(one.users) == 1 and calls.tensors[one.name].rpartition(".")[0] == path for one in stored)
    return path if own else None
