"""Channel pruning: removes whole channels, with everything that depends on them, which leaves a smaller network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from dwindle.compress.layer_shares import LayerShares, layer
from dwindle.compress.layers import Layers
from dwindle.compress.masks import prunable
from dwindle.compress.network import Change, Network
from dwindle.compress.surgery.choice import GroupScore, best, choose, least, score
from dwindle.compress.surgery.cut import Keep, cut, cut_tensors
from dwindle.compress.surgery.exactness import prove, runs
from dwindle.compress.surgery.find import find_groups
from dwindle.compress.surgery.groups import Found, Group, explain
from dwindle.errors import BudgetMissed, ParityFailed, UsageError
from dwindle.export.zeros import Kind
from dwindle.quantities import format_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.compress.meter import Meter

Counted = Literal["MACs", "parameters", "price"]


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
    shares: LayerShares = field(default_factory=LayerShares)
    """The shares of their channels that some layers keep, no more and no less, up to the next multiple of `align`."""
    counts: Counted = "MACs"
    """What shares are measured in: MACs for a budget of MACs, the price by `meter` for one in instructions or time,
    parameters for one of bytes, which follow the parameters."""
    meter: Meter | None = None
    """Says what the network costs, where shares are measured in that."""
    inexact: bool = False
    """Whether channels may go that change what is left, such as those that a LayerNorm averages over."""
    kind: Kind = field(default="channel", init=False)
    rows: int = field(default=1, init=False)
    floor: float | None = field(default=None, init=False)

    def share(self, network: Network) -> float:
        if self.counts == "MACs":
            return network.macs / network.dense_macs
        if self.meter:
            return self.meter.of(network.model) / self.meter.dense
        return network.parameters / network.dense_parameters

    def shrink(self, network: Network, share: float) -> Keep | None:
        """Cuts in place until at most `share` of the dense network's is left, or as far as alignment lets it.

        Checks the cut: raises ParityFailed if the smaller network computes anything else, where the cut is exact, and
        if it does not run, where it isn't. Returns what was kept.
        """
        found = find_groups(network.model, network.inputs, inexact=self.inexact)
        scores, whole = self.score(found, network.model), self.whole(network.model)
        own = self._own(found, network)
        shares = [own.get(index, self.layer_floor) for index in range(len(found.groups))]
        floors = [_units(group, found, network, one) for group, one in zip(found.groups, shares, strict=True)]
        most = [floors[index] if index in own else group.units for index, group in enumerate(found.groups)]
        try:
            if self.counts == "MACs":
                limits: dict[str, Any] = {"macs": share * network.dense_macs}
            elif self.meter:
                limits = {"price": (share * self.meter.dense, self.meter.at(found))}
            else:
                limits = {"parameters": share * network.dense_parameters}
            keep = choose(found, scores, **limits, align=self.align, at_least=floors, at_most=most, whole=whole)
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

    def _own(self, found: Found, network: Network) -> dict[int, float]:
        """The shares of the groups that make channels of a layer with a share of its own, by their index. Raises
        UsageError where two layers of a group have unlike ones, and where a pattern's layers all stay whole."""
        shares = self.shares.of(self.layers.of(network.model))
        own: dict[int, float] = {}
        reached = set[str]()
        for index, group in enumerate(found.groups):
            given = {one.tensor: shares[one.tensor] for one in group.places if one.writes and one.tensor in shares}
            if len(set(given.values())) > 1:
                told = " and ".join(f"{layer(name)} {share:.0%}" for name, share in list(given.items())[:3])
                raise UsageError(
                    f"`layer_share` gives {told}, and these layers can only lose the same channels: give one",
                    code="conflict",
                    option="layer_share",
                )
            if given:
                own[index] = next(iter(given.values()))
            reached |= given.keys()
        for pattern, share in self.shares.patterns:
            matched = LayerShares(((pattern, share),)).of(shares)
            if not reached & matched.keys():
                kept = [one for one in found.uncut if one.layer in set(map(layer, matched))]
                raise UsageError(
                    f"`layer_share` gives {share:.0%} to {pattern!r}, which can lose no channels "
                    f"({explain(kept) or 'nothing of it is made here'}): leave that pattern out",
                    code="conflict",
                    option="layer_share",
                    name=pattern,
                )
        return own

    def whole(self, model: nn.Module) -> set[str]:
        """Returns the names of the weights whose channels the patterns exclude from pruning."""
        return prunable(model).keys() - self.layers.of(model).keys()


def _units(group: Group, found: Found, network: Network, share: float) -> int:
    """How many units of a group are `share` of those of the dense layer, which earlier cuts may have made smaller."""
    place = next((place for place in group.places if place.writes), group.places[0])
    left = found.sizes[place.tensor, place.dim] / network.dense_shapes[place.tensor][place.dim]
    return max(1, min(group.units, math.ceil(share / left * group.units - 1e-9)))


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
