"""What can be removed from a network: groups of alike units, and what each of them costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.compress.surgery.cut import Keep, Slice
from dwindle.quantities import format_names
from dwindle.record import Uncut


@dataclass(frozen=True)
class Place:
    """Where a group's units are in one dimension of a tensor: `indices` is int64[units, indices per unit].
    Zeroing those of a place that `writes` silences the unit; the others read it."""

    tensor: str
    dim: int
    indices: Tensor
    writes: bool


@dataclass(frozen=True)
class Group:
    """Units that are alike: any of them can go, and takes its slices of every place along.

    `name` is the layer that makes the channels. `channels` divides the number of channels that a unit takes from any
    layer: 1 for most, the width of a head in attention, of a group in a grouped convolution.
    """

    name: str
    units: int
    channels: int
    places: tuple[Place, ...]
    inexact: str = ""
    """Why the network computes something else without some of the units, where that was allowed; "": it doesn't."""


def explain(uncut: Sequence[Uncut]) -> str:
    """Which layers stay whole and why, the reason that keeps most channels first, and of its layers the widest:
    `conv2, conv1 (48 channels): an output of the model`."""
    layers: dict[str, list[Uncut]] = defaultdict(list)
    for one in sorted(uncut, key=lambda one: -one.channels):
        layers[one.reason].append(one)
    ranked = sorted(layers.items(), key=lambda item: -sum(one.channels for one in item[1]))
    told = [_kept_by(reason, kept) for reason, kept in ranked[:4]]
    return "; ".join(told + ([f"{len(ranked) - 4} more reasons"] if len(ranked) > 4 else []))


def _kept_by(reason: str, kept: Sequence[Uncut]) -> str:
    names = [one.layer for one in kept if one.layer]
    if not names:
        return reason
    return f"{format_names(names)} ({sum(one.channels for one in kept):,} channels): {reason}"


@dataclass(frozen=True)
class Extent:
    """The size of a dimension: what stays, and so many for each unit of some groups, (index of group, channels)."""

    stays: int
    per_unit: tuple[tuple[int, int], ...]

    def of(self, units: Sequence[int]) -> int:
        return self.stays + sum(units[group] * channels for group, channels in self.per_unit)


@dataclass(frozen=True)
class Product:
    """What is proportional to several extents: a layer's multiply-accumulates, a tensor's elements."""

    name: str
    each: float
    extents: tuple[Extent, ...]

    def of(self, units: Sequence[int]) -> float:
        return self.each * math.prod(extent.of(units) for extent in self.extents)


@dataclass(frozen=True)
class Found:
    """The removable groups of a network, what stays and why, and what every layer costs.

    `sizes` has the present size of every dimension a cut can touch, by (tensor, dim), and `attributes` what becomes
    of numbers, and lists of them, that modules keep as attributes, by (module, attribute).
    """

    groups: tuple[Group, ...]
    uncut: tuple[Uncut, ...]
    layers: tuple[Product, ...]
    tensors: tuple[Product, ...]
    sizes: dict[tuple[str, int], int]
    attributes: dict[tuple[str, str], Extent | tuple[Extent, ...]]

    def macs(self, units: Sequence[int] | None = None) -> float:
        """Multiply-accumulates on the example inputs with so many units left of each group; by default all."""
        return sum(layer.of(self.units if units is None else units) for layer in self.layers)

    def parameters(self, units: Sequence[int] | None = None) -> float:
        """Elements of all parameters, likewise."""
        return sum(tensor.of(self.units if units is None else units) for tensor in self.tensors)

    @property
    def units(self) -> list[int]:
        return [group.units for group in self.groups]

    def kept(self, keep: Keep) -> list[Tensor]:
        """The units of each group that a cut leaves: `found.kept(found.keep(kept)) == kept`."""
        left = []
        for group in self.groups:
            place = group.places[0]
            slices = [one for one in keep.tensors.get(place.tensor, ()) if one.dim == place.dim]
            there = torch.isin(place.indices[:, 0], slices[0].kept) if slices else torch.ones(group.units)
            left.append(there.nonzero()[:, 0])
        return left

    def without(self, keep: Keep, inexact: bool) -> Keep:
        """The part of a cut that concerns groups that are exact, or those that aren't."""
        kept = zip(self.groups, self.kept(keep), strict=True)
        return self.keep([units if bool(g.inexact) != inexact else torch.arange(g.units) for g, units in kept])

    def keep(self, kept: Sequence[Tensor]) -> Keep:
        """The cut that leaves these units of each group: ascending indices, one int64 tensor per group."""
        gone: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        writes: dict[tuple[str, int], bool] = {}
        for group, units in zip(self.groups, kept, strict=True):
            removed = torch.ones(group.units, dtype=torch.bool).index_fill_(0, units, False)
            for place in group.places if removed.any() else ():
                gone[place.tensor, place.dim].append(place.indices[removed].flatten())
                writes[place.tensor, place.dim] = place.writes
        tensors: dict[str, tuple[Slice, ...]] = defaultdict(tuple)
        for (tensor, dim), indices in gone.items():
            size = self.sizes[tensor, dim]
            remaining = torch.ones(size, dtype=torch.bool).index_fill_(0, torch.cat(indices), False).nonzero()[:, 0]
            tensors[tensor] += (Slice(dim, remaining, size, writes[tensor, dim]),)
        attributes: dict[str, dict[str, int | list[int]]] = defaultdict(dict)
        left = [len(units) for units in kept]
        for (module, name), extent in self.attributes.items():
            sizes = [one.of(left) for one in extent] if isinstance(extent, tuple) else extent.of(left)
            attributes[module][name] = sizes
        return Keep(dict(tensors), dict(attributes))
