"""What the rounds pass on: a model, and what has been pruned of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dwindle.compress.pays import Kind

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Network:
    """A model being pruned. Masks are boolean, by parameter name; empty while nothing is masked."""

    model: nn.Module
    masks: dict[str, Tensor] = field(default_factory=dict)

    def copy(self) -> Network:
        return Network(copy.deepcopy(self.model), dict(self.masks))


class Granularity(Protocol):
    """What pruning removes as one: single weights, blocks, channels."""

    @property
    def kind(self) -> Kind:
        """What it removes, as far as files and kernels can tell."""

    @property
    def floor(self) -> float | None:
        """The share it always ends at, for one that says so itself (2:4); None where the budget decides."""

    def share(self, network: Network) -> float:
        """How much of what can be pruned is left, in [0, 1]."""

    def shrink(self, network: Network, share: float) -> None:
        """Prunes `network` in place to `share`, never bringing back what is gone."""
