"""Allocations of channels: how many each layer keeps of those it makes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from torch import nn

from dwindle.compress.amc.allocation import Layer
from dwindle.compress.amc.arrival import group_names
from dwindle.compress.amc.features import describe
from dwindle.compress.channels import Counted
from dwindle.compress.surgery.choice import best, find_groups, score, step
from dwindle.compress.surgery.cut import cut
from dwindle.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class Widths:
    """The space of channel pruning: each group of channels that go together keeps those of greatest magnitude."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        align: int = 8,
        whole: Container[str] = (),
        currency: Counted = "MACs",
    ) -> None:
        """`inputs`: one sample as a batch of one. Groups that make channels of a tensor named in `whole` keep all.
        `currency`: what the cost is counted in.

        Raises UsageError where nothing can be removed.
        """
        self.model, self.found = model, find_groups(model, inputs)
        self.currency: str = currency
        self._scores = score(self.found, model)
        tensors, groups = dict(model.named_parameters()), self.found.groups
        makers = [next((p for p in group.places if p.writes), group.places[0]).tensor for group in groups]
        seen = dict(describe(model, {maker: tensors[maker] for maker in makers}, inputs))
        self._free = [
            index
            for index, group in enumerate(groups)
            if not any(place.writes and place.tensor in whole for place in group.places)
        ]
        if not self._free:
            raise UsageError(
                "`include` and `exclude` leave no channel to remove: include more layers",
                code="nothing-to-prune",
                option="include",
            )
        names = group_names(self.found)
        self.layers = tuple(
            Layer(names[i], groups[i].units, seen[makers[i]], step(groups[i], align)) for i in self._free
        )

    def cost(self, kept: Sequence[int]) -> float:
        units = self._units(kept)
        return self.found.macs(units) if self.currency == "MACs" else self.found.parameters(units)

    def apply(self, kept: Sequence[int]) -> nn.Module:
        return cut(self.model, best(self.found, self._scores, self._units(kept)))

    def _units(self, kept: Sequence[int]) -> list[int]:
        units = self.found.units
        for index, count in zip(self._free, kept, strict=True):
            units[index] = count
        return units
