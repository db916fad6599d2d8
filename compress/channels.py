"""Channel pruning: removes whole channels, with everything that depends on them, which leaves a smaller network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dwindle.compress.layers import Layers
from dwindle.compress.masks import prunable
from dwindle.compress.network import Change, Network
from dwindle.compress.surgery.choice import GroupScore, best, choose, least, score
from dwindle.compress.surgery.cut import Keep, cut, cut_tensors
from dwindle.compress.surgery.exactness import prove, runs
from dwindle.compress.surgery.find import find_groups
from dwindle.compress.surgery.groups import Found, Group
from dwindle.errors import BudgetMissed, ParityFailed
from dwindle.export.zeros import Kind
from dwindle.quantities import format_names

if TYPE_CHECKING:
    from torch import Tensor, nn

Counted = Literal["MACs", "parameters"]


@dataclass(frozen=True)
class Channels:
    """Removes the channels of least magnitude, over all layers; shares are of what `counts` says.

    Every kept width is a multiple of `align`, or the layer's whole width: odd widths fall out of the kernels'
    vector layouts and can be slower than the dense network.
    """

    align: int = 8
    layers: Layers = field(default_factory=Layers)
    score: GroupScore = score
    layer_floor: float = 0.0
    """The share of its own channels that every layer keeps, whatever its scores."""
    counts: Counted = "MACs"
    """What shares are measured in: MACs for a budget of MACs, parameters for one of bytes, which follow the
    parameters."""
    inexact: bool = False
    """Whether channels may go that change what is left, such as those that a LayerNorm averages over."""
    kind: Kind = field(default="channel", init=False)
    floor: float | None = field(default=None, init=False)

    def share(self, network: Network) -> float:
        if self.counts == "MACs":
            return network.macs / network.dense_macs
        return network.parameters / network.dense_parameters

    def shrink(self, network: Network, share: float) -> Keep | None:
        """Cuts in place until at most `share` of the dense network's is left, or as far as alignment lets it.

        Checks the cut: raises ParityFailed if the smaller network computes anything else, where the cut is exact, and
        if it does not run, where it isn't. Returns what was kept.
        """
        found = find_groups(network.model, network.inputs, inexact=self.inexact)
        scores, whole = self.score(found, network.model), self.whole(network.model)
        floors = [self._fewest(group, found, network) for group in found.groups]
        try:
            if self.counts == "MACs":
                limits = {"macs": share * network.dense_macs}
            else:
                limits = {"parameters": share * network.dense_parameters}
            keep = choose(found, scores, **limits, align=self.align, at_least=floors, whole=whole)
        except BudgetMissed:
            keep = best(found, scores, least(found, floors, align=self.align, whole=whole))
        if not keep.tensors:
            return None
        network.changes = _changes(found, keep)
        if network.changes and not runs(network.model, keep, network.inputs):
            raise ParityFailed(
                f"the network does not run without channels of {format_names([one.layer for one in network.changes])}: "
                "leave out `inexact_cuts`",
                code="inexact-cut",
                option="inexact_cuts",
            )
        prove(network.model, found.without(keep, inexact=True), network.inputs)
        network.model, network.kept = cut(network.model, keep), compose(network.kept, keep)
        network.masks = cut_tensors(network.masks, keep)
        network.uncut = found.uncut
        return keep

    def _fewest(self, group: Group, found: Found, network: Network) -> int:
        """Returns how many units of a group `layer_floor` keeps: it is a share of the dense layer, which earlier cuts
        may have made smaller."""
        place = next((place for place in group.places if place.writes), group.places[0])
        left = found.sizes[place.tensor, place.dim] / network.dense_shapes[place.tensor][place.dim]
        return max(1, min(group.units, math.ceil(self.layer_floor / left * group.units - 1e-9)))

    def whole(self, model: nn.Module) -> set[str]:
        """Returns the names of the weights whose channels the patterns exclude from pruning."""
        return prunable(model).keys() - self.layers.of(model).keys()


def _changes(found: Found, keep: Keep) -> tuple[Change, ...]:
    """What of a cut isn't exact, by group."""
    kept = found.kept(keep)
    every = [torch.arange(group.units) for group in found.groups]
    return tuple(
        Change(group.name, len(kept[i]), group.units, group.inexact, found.keep([*every[:i], kept[i], *every[i + 1 :]]))
        for i, group in enumerate(found.groups)
        if group.inexact and len(kept[i]) < group.units
    )


def carry(optimizer: torch.optim.Optimizer, before: nn.Module, after: nn.Module, keep: Keep) -> None:
    """Hands an optimizer of `before` on to its cut copy `after`: state that mirrors a parameter (momentum, Adam's
    moments) is cut by the parameter's indices, and nothing is reset."""
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    smaller = dict(after.named_parameters())
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            name = names[id(parameter)]
            state = optimizer.state.pop(parameter, {})
            group["params"][i] = smaller[name]
            if state:
                optimizer.state[smaller[name]] = {
                    key: cut_tensors({name: value}, keep)[name] if _mirrors(value, parameter) else value
                    for key, value in state.items()
                }


def compose(first: dict[str, Tensor], keep: Keep) -> dict[str, Tensor]:
    """Adds a cut to those before it: `NAME:DIM` → the indices, into the dense network's tensor, that are left."""
    composed = dict(first)
    for name, slices in keep.tensors.items():
        for piece in slices:
            key = f"{name}:{piece.dim}"
            composed[key] = first[key][piece.kept] if key in first else piece.kept
    return composed


def cut_by(kept: dict[str, Tensor], named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cuts tensors of the dense network by composed cuts. A tensor is taken for that of the parameter whose name its
    own ends with (`momentum/conv.weight`)."""
    places: dict[str, list[tuple[int, Tensor]]] = {}
    for key, indices in kept.items():
        name, _, dimension = key.rpartition(":")
        places.setdefault(name, []).append((int(dimension), indices))
    result = {}
    for key, tensor in named.items():
        for dim, indices in places.get(key.rpartition("/")[2], ()):
            tensor = tensor.index_select(dim, indices)
        result[key] = tensor
    return result


def _mirrors(value: object, parameter: Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape == parameter.shape
