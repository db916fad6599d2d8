"""What can be removed from a network: groups of alike units, and what each of them costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.checkpoint import Uncut
from dwindle.compress.surgery.cut import Keep, Slice
from dwindle.quantities import format_names


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


def explain(uncut: Sequence[Uncut]) -> str:
    """Which layers stay whole and why, the most frequent reasons first: `conv1, conv2: an output of the model`."""
    layers: dict[str, list[str]] = defaultdict(list)
    for one in uncut:
        layers[one.reason].append(one.layer)
    ranked = sorted(layers.items(), key=lambda item: -len(item[1]))
    told = [f"{format_names(names)}: {reason}" if any(names) else reason for reason, names in ranked[:4]]
    return "; ".join(told + ([f"{len(ranked) - 4} more reasons"] if len(ranked) > 4 else []))


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
