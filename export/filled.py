"""What targets share that convert a network's architecture once and fill its file with each network's tensors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dwindle.export.fold import fold, foldable
from dwindle.export.quantize import Stored, quantized, stored
from dwindle.export.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn


class Graph(Protocol):
    """A converted network."""

    @property
    def complete(self) -> bool:
        """Whether all constants are tensors of the network, so that they can be replaced by another network's."""

    def filled(self, weights: Mapping[str, Stored], *, pack: bool) -> tuple[bytes, Any]:
        """The file with the tensors of another network of the same architecture, and how sparse layers are stored."""


class Converter(Protocol):
    """What a target's module `graph` has."""

    @property
    def convert(self) -> Callable[[nn.Module, tuple[Tensor, ...]], Graph]:
        """Makes the graph of a network's architecture; it may raise UsageError."""

    @property
    def convert_as_is(self) -> Callable[[nn.Module, tuple[Tensor, ...]], Graph]:
        """As `convert`, for a network some of whose constants the converter computes from weights: they are kept."""


class FilledTarget(Target):
    """A target whose converter is asked once for an architecture."""

    @property
    def fills_with(self) -> str:
        """The precision of the tensors that a graph is filled with."""
        return self.precision

    @property
    @abstractmethod
    def converter(self) -> Converter:
        """The target's module `graph`, whose libraries are imported when it is first asked for."""

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        pairs = foldable(module, inputs)
        graph = self.converter.convert(fold(module, pairs), inputs)

        def size(candidate: nn.Module) -> int:
            network = fold(candidate, pairs)
            return len(self._filled(graph, network, stored(network, self.fills_with), inputs, pack=True)[0])

        return size

    def filled(self, module: nn.Module, inputs: tuple[Tensor, ...], *, pack: bool) -> tuple[bytes, Any]:
        """The file of a network, and what its graph's `filled` says of its sparse layers."""
        nearest = stored(module, self.fills_with)
        weights = self.rounding(module, nearest) if self.rounding else nearest
        return self._filled(self.converter.convert(module, inputs), module, weights, inputs, pack=pack)

    def _filled(
        self,
        graph: Graph,
        network: nn.Module,
        weights: dict[str, Stored],
        inputs: tuple[Tensor, ...],
        *,
        pack: bool,
    ) -> tuple[bytes, Any]:
        if not graph.complete:  # what is computed from weights follows from their values
            graph = self.converter.convert_as_is(quantized(network, weights), inputs)
        return graph.filled(weights, pack=pack)
