"""Parallel branches that are added up, as some networks have them while they are trained, made one convolution.

RepVGG, MobileOne, RepViT and FastViT add a 3x3 convolution, a 1x1 convolution and the input itself, each with a batch
norm of its own. All of that is linear, so that one convolution computes it. They are found in the traced graph, in any
module that computes such a sum and then calls modules of its own one after the other:

    self.act(self.large(x) + self.small(x) + self.norm(x))   →   self.act(self.merged(x))
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.export.calls import Calls

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import Node

_MERGED = "merged"


class Term(NamedTuple):
    """A linear function of a block's input."""

    kind: str
    """`input`, `convolution`, `norm`, `scale`, `sum` or `difference`."""
    name: str = ""
    """The path of the convolution or batch norm, or the name of the parameter that scales channels."""
    of: tuple[Term, ...] = ()
    """What is normalised, scaled, added or subtracted."""

    def every(self) -> Iterator[Term]:
        """This term and all that it is made of."""
        yield self
        for term in self.of:
            yield from term.every()


class Merge(NamedTuple):
    """A block whose branches one convolution computes."""

    path: str
    """The block's module."""
    term: Term
    """What the branches add up to."""
    largest: str
    """The path of the convolution whose kernel, padding and stride the merged one has."""
    then: tuple[str, ...]
    """The children of the block that are called afterwards, one after the other."""

    @property
    def replaced(self) -> frozenset[str]:
        """The paths of the layers that the merged convolution stands for."""
        return frozenset(term.name for term in self.term.every() if term.kind in ("convolution", "norm"))


def mergeable(calls: Calls) -> tuple[Merge, ...]:
    """The blocks of a traced network, in eval mode, that can be merged: the outer one where one holds another."""
    found: list[Merge] = []
    for path in sorted(calls.within, key=lambda path: path.count(".")):
        replaced = [layer for one in found for layer in one.replaced]
        if path and not any(f"{layer}.".startswith(f"{path}.") for layer in replaced):
            found += [one] if (one := _merge_at(path, calls)) else []
    return tuple(found)


def merge(network: nn.Module, merges: Sequence[Merge]) -> None:
    """Puts the merged convolutions into a network.

    A weight is zero where every branch has pruned it. The merged convolution has at most as many nonzeros as its
    branches together, and one more for each channel where the input itself is a branch.
    """
    from torch import nn

    for path, term, largest, then in merges:
        block = network.get_submodule(path)
        merged = one_convolution(term, largest, network)
        called = OrderedDict([(_MERGED, merged), *((name, block.get_submodule(name)) for name in then)])
        network.set_submodule(path, nn.Sequential(called).eval())


def one_convolution(term: Term, largest: str, network: nn.Module) -> nn.Module:
    """The convolution that computes a term, of the kernel, padding and stride of the one at the path `largest`."""
    import torch
    from torch import nn

    like: Any = network.get_submodule(largest)
    with torch.no_grad():
        weight, bias = _value(term, network, like)
    sizes = (like.in_channels, like.out_channels, like.kernel_size, like.stride, like.padding)
    merged: nn.Module = type(like)(*sizes, groups=like.groups)
    merged.weight, merged.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
    return merged


def _norm(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm in eval mode multiplies each channel by and then adds, in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _value(term: Term, network: nn.Module, like: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution of the sizes of `like` that computes a term."""
    import torch

    if term.kind == "input":
        weight = torch.zeros_like(like.weight, dtype=torch.float64)
        channel = torch.arange(like.out_channels)
        weight[(channel, channel % weight.shape[1], *like.padding)] = 1
        return weight, weight.new_zeros(like.out_channels)
    if term.kind == "convolution":
        layer: Any = network.get_submodule(term.name)
        around = [whole - own for whole, own in zip(like.padding, layer.padding, strict=True) for _ in range(2)]
        weight = torch.nn.functional.pad(layer.weight.double(), around[::-1])
        return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
    values = [_value(one, network, like) for one in term.of]
    (weight, bias), (other, shift) = values[0], values[-1]
    if term.kind == "sum":
        return weight + other, bias + shift
    if term.kind == "difference":
        return weight - other, bias - shift
    if term.kind == "norm":
        scale, shift = _norm(network.get_submodule(term.name))
    else:
        scale, shift = network.get_parameter(term.name).double().reshape(-1), bias.new_zeros(())
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias * scale + shift


def _merge_at(path: str, calls: Calls) -> Merge | None:
    """How the block at `path` is merged; None: it can't be."""
    nodes = calls.within[path]
    outside = {one for node in nodes for one in node.all_input_nodes if one not in nodes}
    given = [one for one in outside if one.name not in calls.tensors]
    if len(given) != 1:
        return None
    terms = {given[0]: Term("input")}
    for node in nodes:
        if term := _term(node, terms, calls):
            terms[node] = term
    linear = [node for node in nodes if node in terms]
    if None not in (children := {calls.child(path, node) for node in linear}) and len(children) == 1:
        return None  # the whole sum is in one of its children, which is the block
    last = [node for node in linear if not node.users.keys() <= terms.keys()]
    alone = all(len(one.users) == 1 for one in outside if one.name in calls.tensors and one.users.keys() & set(linear))
    if not any(node.target in _sums() for node in linear):
        return None
    if len(last) != 1 or not alone or any(user in nodes and user not in terms for user in given[0].users):
        return None
    then, largest = calls.then(path, last[0], linear), largest_of(terms[last[0]], calls.network)
    if then is None or _MERGED in then or largest is None:
        return None
    return Merge(path, terms[last[0]], largest, then)


def _term(node: Node, terms: dict[Node, Term], calls: Calls) -> Term | None:
    """What a call computes, if that is linear in the block's input."""
    import torch
    from torch import nn

    aten = torch.ops.aten
    args: Any = node.args
    if node.kwargs or not args or args[0] not in terms:
        return None
    of = (terms[args[0]],)
    if node.target in (aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor) and (
        len(args[0].users) > 1 or terms[args[0]].kind == "input"
    ):
        return None  # something else reads what this overwrites
    path, module = calls.caller(node)
    if node.target in (sums := _sums()):
        if args[1] == 0:
            return of[0]  # 0 + x, as networks have it that add branches up in a loop
        return Term(sums[node.target], of=(of[0], terms[args[1]])) if args[1] in terms else None
    if node.target in (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default):
        plain = type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and terms[args[0]].kind == "input"
        return Term("convolution", path) if plain and calls.tensors.get(args[1].name) == f"{path}.weight" else None
    if node.target is aten.batch_norm.default:
        own = isinstance(args[3], torch.fx.Node) and calls.tensors.get(args[3].name) == f"{path}.running_mean"
        return Term("norm", path, of) if own and args[5] is False else None
    if node.target in (aten.mul.Tensor, aten.mul_.Tensor) and isinstance(args[1], torch.fx.Node):
        shape, scaled = args[1].meta["val"].shape, node.meta["val"].shape
        whole = [1] * (len(scaled) - len(shape)) + list(shape)
        of_channels = all(size == 1 or axis == 1 for axis, size in enumerate(whole))
        name = calls.tensors.get(args[1].name)
        return Term("scale", name, of) if name and of_channels else None
    return of[0] if node.target is aten.dropout.default and args[2] is False else None


def _sums() -> dict[object, str]:
    import torch

    aten = torch.ops.aten
    added, subtracted = (aten.add.Tensor, aten.add_.Tensor), (aten.sub.Tensor, aten.sub_.Tensor)
    return {**dict.fromkeys(added, "sum"), **dict.fromkeys(subtracted, "difference")}


def largest_of(term: Term, network: nn.Module) -> str | None:
    """The convolution into whose kernel those of all branches fit; None: there is none."""
    layers: dict[str, Any] = {
        one.name: network.get_submodule(one.name) for one in term.every() if one.kind == "convolution"
    }
    straight = any(one.kind == "input" for one in term.every())
    if not layers:
        return None
    largest, like = max(layers.items(), key=lambda item: item[1].weight[0, 0].numel())
    fits = all(
        (one.stride, one.groups, one.out_channels) == (like.stride, like.groups, like.out_channels)
        and one.padding_mode == "zeros"
        and _inside(one.kernel_size, one.padding, like)
        and set(one.dilation) == {1}
        for one in layers.values()
    )
    if straight:  # as a convolution of one tap
        fits = fits and like.in_channels == like.out_channels and set(like.stride) == {1}
        fits = fits and _inside([1] * len(like.stride), [0] * len(like.stride), like)
    return largest if fits else None


def _inside(kernel: Sequence[int], padding: Sequence[int] | str, like: Any) -> bool:
    """Whether a kernel lies within that of `like`, in its middle as both are padded."""
    if isinstance(padding, str) or isinstance(like.padding, str):
        return False
    return all(
        whole >= own and whole - own == 2 * (around - pad)
        for whole, own, around, pad in zip(like.kernel_size, kernel, like.padding, padding, strict=True)
    )
