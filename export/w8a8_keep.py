"""Which layers of a network in int8 stay float: those asked for, or those that lose most of the outputs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from dwindle import registry
from dwindle.errors import UsageError
from dwindle.export.w8a8_convert import flat, is_call
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import Node

    from dwindle.export.w8a8_codes import Layer

_JUDGED = 4
"""How many samples say what a layer loses."""
_ENOUGH = 30.0
"""From this signal-to-noise ratio of the outputs on, in decibels, no further layer is kept."""
_SHARE = 8
"""One of so many layers is kept at most, and two in any case: int8 is asked for to be fast."""


def named_layers(layers: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Those of a network's layers that are named, or that are within modules named.

    Raises UsageError for a name that is of neither.
    """
    kept: list[str] = []
    for name in names:
        within = [layer for layer in layers if layer == name or layer.startswith(f"{name}.")]
        if not within:
            raise UsageError(
                registry.unknown("layer with an int8 form", name, list(layers)),
                code="unknown-name",
                option="keep_float",
                name=name,
            )
        kept += within
    return tuple(dict.fromkeys(kept))


def judging(samples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A few of the samples, from all over them."""
    step = max(1, len(samples[0]) // _JUDGED)
    return tuple(tensor[::step][:_JUDGED] for tensor in samples)


def noise(network: nn.Module, rounded: nn.Module, samples: tuple[Tensor, ...]) -> float:
    """The squared error of another network's outputs."""
    from dwindle.export.answers import outputs_of

    exact = outputs_of(network, tuple(samples))
    return sum(float(((a - b) ** 2).sum()) for a, b in zip(exact, outputs_of(rounded, samples), strict=True))


def neighbours(node: Node, layer_of: Mapping[str, str]) -> frozenset[str]:
    """The layers nearest to a node of a graph: the first that is met along every way up and down from it; itself where
    it is one. Their values meet in the node, which is float only where all of these are.

    layer_of: the name of the layer that a call is of, by the call's name.
    """
    if node.name in layer_of:
        return frozenset({layer_of[node.name]})
    return frozenset(_met(node, layer_of, up=True) | _met(node, layer_of, up=False))


def _met(node: Node, layer_of: Mapping[str, str], *, up: bool) -> set[str]:
    found: set[str] = set()
    seen, ahead = {node}, [node]
    while ahead:
        here = ahead.pop()
        for one in here.all_input_nodes if up else here.users:
            if one.name in layer_of:
                found.add(layer_of[one.name])
            elif one not in seen:
                seen.add(one)
                ahead.append(one)
    return found


def most_lossy(
    network: nn.Module,
    layers: Sequence[Layer],
    program: fx.GraphModule,
    layer_of: Mapping[str, str],
    samples: tuple[Tensor, ...],
) -> tuple[str, ...]:
    """The layers without whose rounding, and that of the values between them, the outputs lose least.

    What each weight and each value adds to the outputs' noise is measured by rounding it alone; the noise of several
    adds up. Layers are taken by what they spare, each time those with the most for one of them. Empty where all of them
    together leave enough of the outputs.

    layers: those in int8. program: rounds the values between them, and no weights. layer_of: as in `neighbours`.
    """
    noises: dict[frozenset[str], float] = defaultdict(float)
    signal = 0.0
    for layer in layers:
        noises[frozenset({layer.path})] += noise(network, _weight_rounded(network, layer), samples)
    by_value = _ByValue(program, layer_of)
    exact: list[Any] = []
    with torch.no_grad():
        each = list(zip(*(tensor.split(1) for tensor in samples), strict=True))
        exact = [flat(by_value.of(sample, None)) for sample in each]
        signal = sum(float((one**2).sum()) for one in exact)
        for value, between in by_value.values.items():
            found = [flat(by_value.of(sample, value)) for sample in each]
            noises[between] += sum(float(((a - b) ** 2).sum()) for a, b in zip(exact, found, strict=True))
    every = list(dict.fromkeys(layer.path for layer in layers))
    allowed, most = signal * 10 ** (-_ENOUGH / 10), max(2, math.ceil(len(every) / _SHARE))
    kept: frozenset[str] = frozenset()

    def left(keeping: frozenset[str]) -> float:
        return sum(one for between, one in noises.items() if not between <= keeping)

    while left(kept) > allowed:
        choices = [kept | between for between in noises if between - kept and len(kept | between) <= most]
        if not choices:
            break
        kept = max(choices, key=lambda them: (left(kept) - left(them)) / len(them - kept))
    return tuple(name for name in every if name in kept)


class _ByValue(fx.Interpreter):
    """Runs a program in int8, of whose values none but one is rounded."""

    def __init__(self, program: fx.GraphModule, layer_of: Mapping[str, str]) -> None:
        super().__init__(program)
        self._only: Node | None = None
        quantizers = [node for node in program.graph.nodes if is_call(node, "quantize_per_tensor")]
        self.values = {node: neighbours(node, layer_of) for node in quantizers}

    def of(self, sample: tuple[Tensor, ...], value: Node | None) -> Any:
        self._only = value
        return self.run(*sample)

    def run_node(self, n: Node) -> Any:
        source: Any = n.args[0] if n.args else None
        if n in self.values and n is not self._only:
            return self.env[source]
        if is_call(n, "dequantize_per_tensor") and source in self.values and source is not self._only:
            return self.env[source]
        return super().run_node(n)


def _weight_rounded(network: nn.Module, layer: Layer) -> nn.Module:
    """A copy of the network with one layer's weight rounded."""
    rounded = copied(network)
    along = [-1 if axis == layer.axis else 1 for axis in range(layer.codes.ndim)]
    with torch.no_grad():
        rounded.get_parameter(layer.weight).copy_(torch.from_numpy(layer.codes * layer.scale.reshape(along)))
    return rounded
