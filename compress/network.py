"""A model together with the masks and cuts that pruning has made in it: what one round hands to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from dwindle.compress.macs import count, macs
from dwindle.compress.masks import prunable
from dwindle.export.zeros import Kind
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.compress.layers import Layers
    from dwindle.compress.surgery.cut import Keep
    from dwindle.record import Uncut


@dataclass(frozen=True)
class Change:
    """A cut of a group of channels without which the network computes something else: `left` of its `units` stay."""

    layer: str
    left: int
    units: int
    reason: str
    keep: Keep
    """The cut of this group alone."""


@dataclass
class Network:
    """A model being pruned."""

    model: nn.Module
    inputs: tuple[Tensor, ...] = ()
    """One sample as a batch of one: what MACs are counted on and cuts are traced with."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Boolean, by parameter name, True where the weight survives; empty while nothing is masked."""
    kept: dict[str, Tensor] = field(default_factory=dict)
    """`NAME:DIM` → the indices that cuts left of the dense network's tensor; empty while nothing is cut."""
    widths: dict[str, str] = field(default_factory=dict)
    """At `precision` mixed the precision that each tensor is stored in, by name; empty before it is chosen. Copies
    share it, and so does the target that counts bytes and rounds."""
    uncut: tuple[Uncut, ...] = ()
    """What the last cut could not remove, and why."""
    changes: tuple[Change, ...] = ()
    """What the last cut changed of what the network computes; empty where it was exact."""
    dense_macs: int = 0
    uncounted: tuple[str, ...] = ()
    """The operators whose multiply-accumulates nobody knows: see `macs.Count`."""
    kernels: tuple[str, ...] = ()
    """The parameters that activations are multiplied by, by name, as far as `inputs` tell."""
    dense_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs and not self.dense_macs:
            counted = count(self.model, self.inputs)
            self.dense_macs, self.uncounted = sum(counted.layers.values()), counted.uncounted
            self.kernels = counted.kernels
        if not self.dense_shapes:
            self.dense_shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference; masked weights count, removed channels don't."""
        return sum(macs(self.model, self.inputs).values())

    @property
    def parameters(self) -> int:
        """The number of elements of all parameters; masked weights count, removed channels don't."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def dense_parameters(self) -> int:
        """The number of elements of all parameters of the dense network."""
        return sum(math.prod(self.dense_shapes[name]) for name, _ in self.model.named_parameters())

    @property
    def density(self) -> float:
        """Surviving share of the dense network's prunable weights, in [0, 1]: neither masked nor cut."""
        masked = sum(mask.numel() - int(mask.sum()) for mask in self.masks.values())
        weights = prunable(self.model) | {name: self.model.get_parameter(name) for name in self.masks}
        left = sum(weight.numel() for weight in weights.values()) - masked
        return left / sum(math.prod(self.dense_shapes[name]) for name in weights)

    @property
    def emptied(self) -> list[str]:
        """The names of the weight tensors of which nothing survives: layer collapse (Tanaka et al. 2020, §4)."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def copy(self) -> Network:
        """Returns a copy that shares no weights and no masks with this one."""
        return replace(self, model=copied(self.model), masks=dict(self.masks), kept=dict(self.kept))


class Granularity(Protocol):
    """What pruning removes as one: single weights, blocks, channels."""

    @property
    def kind(self) -> Kind:
        """What is removed, as far as file formats and kernels can tell: see `Kind`."""

    @property
    def rows(self) -> int:
        """How many neighbouring output channels are pruned together; 1 where weights or channels go one by one."""

    @property
    def floor(self) -> float | None:
        """The share that pruning always ends at, where the granularity fixes it (2:4); None where the budget
        decides."""

    @property
    def layers(self) -> Layers:
        """Which layers are pruned."""

    def share(self, network: Network) -> float:
        """Returns how much is left of what can be pruned, in [0, 1]."""

    def shrink(self, network: Network, share: float) -> Keep | None:
        """Prunes `network` in place to `share`, never bringing back what is gone.

        Returns what a cut kept, where the model is now a smaller one; None where weights were masked.
        """
