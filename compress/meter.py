"""The price of a network at any widths: of each of its layers from a table, and of the rest by its activations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.export.fold import deployable
from dwindle.models.layerwise.shapes import Call, calls
from dwindle.price import Price, Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.compress.surgery.groups import Extent, Found
    from dwindle.export.target import Target

SHARE = 0.25
"""The narrowest widths in the table, as a share of the layer's own. What a kernel executes is on a line from there."""
TILE = 16
"""Widths in the table are multiples of this, and one is between two of them: kernels that compute so many channels at
once compute some in vain."""
Widths = Mapping[str, tuple[int, int]]
"""The channels that each layer takes and gives, by its name."""


class Axis:
    """The widths of one side of a layer that are priced, and what a width between them amounts to."""

    def __init__(self, whole: int, free: bool) -> None:
        """free: whether a cut may change the width."""
        self.low = max(TILE, round(SHARE * whole / TILE) * TILE)
        self.high = max(2 * TILE, -(-whole // TILE) * TILE)
        self.knots = (self.low, self.high) if free and self.low < self.high else (whole,)
        self.between = self.low + TILE // 2 if len(self.knots) == 2 else None
        self._more = 0.0

    def learn(self, low: float, between: float, high: float) -> None:
        """Takes the prices at the low width, the one between and the high one."""
        width = self.low + (between - low) / (high - low) * (self.high - self.low) if high > low else self.low
        self._more = width - (self.low + TILE // 2)

    def place(self, width: int) -> float:
        """Where a width lies on the line from the first of the known widths, 0, to the last, 1."""
        if len(self.knots) == 1:
            return 0.0
        wasted = self._more * (1 - abs(width % TILE - TILE / 2) / (TILE / 2))
        return (width + wasted - self.low) / (self.high - self.low)


class Table:
    """The price of one layer over its widths."""

    def __init__(self, shape: Shape, *, inputs: bool = True, outputs: bool = True) -> None:
        """inputs, outputs: whether cuts may change the channels that the layer takes, and those that it gives."""
        self.shape = shape
        self._grouped = shape.groups > 1
        self._inputs = Axis(shape.inputs, inputs and not self._grouped)
        self._outputs = Axis(shape.outputs, outputs)
        self._prices: list[list[float]]

    @property
    def shapes(self) -> list[Shape]:
        """What has to be priced: the layer at the corners, and with one side between them."""
        corners = [(inner, outer) for inner in self._inputs.knots for outer in self._outputs.knots]
        last_inner, last_outer = corners[-1]
        corners += [(last_inner, self._outputs.between)] if self._outputs.between else []
        corners += [(self._inputs.between, last_outer)] if self._inputs.between else []
        return [self.shape.at(*_grouped(self.shape, *widths)) for widths in corners]

    def fill(self, prices: Mapping[Shape, float]) -> None:
        """Takes the prices of `shapes`."""
        own, across = [prices[shape] for shape in self.shapes], len(self._outputs.knots)
        self._prices = [own[start : start + across] for start in range(0, across * len(self._inputs.knots), across)]
        rest = iter(own[across * len(self._inputs.knots) :])
        if self._outputs.between:
            self._outputs.learn(self._prices[-1][0], next(rest), self._prices[-1][-1])
        if self._inputs.between:
            self._inputs.learn(self._prices[0][-1], next(rest), self._prices[-1][-1])

    def price(self, inputs: int, outputs: int) -> float:
        """The price at any widths."""
        outer = self._outputs.place(outputs)
        column = [row[0] + (row[-1] - row[0]) * outer for row in self._prices]
        return column[0] + (column[-1] - column[0]) * self._inputs.place(inputs)


class Meter:
    """Says what a network costs, and what it would cost with fewer channels.

        >>> found = find_groups(model, inputs)
        >>> meter = Meter(model, inputs, found, load_price("cost", "onnx", "fp32"), target)
        >>> meter.dense, meter.of(cut_model), meter.at(found)(units)

    Layers are priced one by one, those of one shape once. What is left of the dense network's own price, such as
    additions, pooling and changes of layout, is taken to follow the number of activations.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        found: Found,
        price: Price,
        target: Target,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prices the layers of the dense network `model`; raises what `price` does.

        inputs: a batch of one. found: the network's groups of channels. progress: called with sentences about how far
        it is.
        """
        self.price, self._inputs, self._target = price, inputs, target
        self.calls = tuple(calls(model, inputs))
        free = {place for place, extent in _extents(found).items() if extent.per_unit}
        sides = {call.layer: ((call.layer, 1) in free, (call.layer, 0) in free) for call in self.calls}
        self._tables: dict[tuple[Shape, tuple[bool, bool]], Table] = {}
        self._of: dict[Call, Table] = {}
        for call in self.calls:
            key = call.shape, sides[call.layer]
            inner, outer = key[1]
            self._of[call] = self._tables.setdefault(key, Table(call.shape, inputs=inner, outputs=outer))
        wanted = list(dict.fromkeys(shape for table in self._tables.values() for shape in table.shapes))
        prices = dict(zip(wanted, price.layers(wanted, progress), strict=True))
        for table in self._tables.values():
            table.fill(prices)
        progress(f"{price.unit} of the whole network")
        self.dense = self.whole(model)
        """The price of the dense network."""
        own, numbers = self._layers(_present(model, self.calls))
        self._fixed, self._each = 0.0, (self.dense - own) / numbers

    def whole(self, model: nn.Module) -> float:
        """The price of a network with these layers, by its file and not by the table."""
        with tempfile.TemporaryDirectory() as folder:

            def file() -> tuple[Path, list[np.ndarray]]:
                path = Path(folder, f"net{self._target.suffix}")
                network = deployable(model, self._inputs)
                target = self._target.calibrated(self._inputs) if self._target.calibrates else self._target
                target.write(network, self._inputs, path, pack=False)
                return path, [tensor.numpy() for tensor in self._inputs]

            return self.price.whole(file, [call.shape for call in calls(model, self._inputs)])

    def correct(self, model: nn.Module) -> float:
        """Has a network that was cut priced whole, so that the table is right there too, and near it.

        Returns by which share the table was wrong.
        """
        whole, (own, numbers) = self.whole(model), self._layers(_present(model, self.calls))
        wrong = (own + self._fixed + self._each * numbers) / whole - 1
        dense, most = self._layers({call.layer: (call.shape.inputs, call.shape.outputs) for call in self.calls})
        if numbers < most:
            self._each = (self.dense - dense - whole + own) / (most - numbers)
            self._fixed = self.dense - dense - self._each * most
        return wrong

    def of(self, model: nn.Module) -> float:
        """The price of a network that was cut from the dense one, by the table."""
        return self._total(_present(model, self.calls))

    def at(self, found: Found) -> Callable[[Sequence[int]], float]:
        """A function from the units that are left of each group to the price, by the table.

        found: the groups of the network, which may have been cut already.
        """
        extents = _extents(found)
        sides = {call.layer: (extents.get((call.layer, 1)), extents.get((call.layer, 0))) for call in self.calls}

        def cost(units: Sequence[int]) -> float:
            widths: dict[str, tuple[int, int]] = {}
            for call in self.calls:
                inner, outer = sides[call.layer]
                outputs = outer.of(units) if outer else call.shape.outputs
                inputs = inner.of(units) if inner else call.shape.inputs
                widths[call.layer] = _grouped(call.shape, inputs, outputs)
            return self._total(widths)

        return cost

    def _total(self, widths: Widths) -> float:
        own, numbers = self._layers(widths)
        return own + self._fixed + self._each * numbers

    def _layers(self, widths: Widths) -> tuple[float, float]:
        """The price of the layers, and the number of their activations."""
        own = numbers = 0.0
        for call in self.calls:
            own += self._of[call].price(*widths[call.layer])
            numbers += call.shape.at(*widths[call.layer]).activations
        return own, numbers


def _grouped(shape: Shape, inputs: int, outputs: int) -> tuple[int, int]:
    """The channels that a layer takes and gives: the weight of a grouped one tells the second alone."""
    return (outputs * shape.inputs // shape.outputs, outputs) if shape.groups > 1 else (inputs, outputs)


def _present(model: nn.Module, made: Sequence[Call]) -> dict[str, tuple[int, int]]:
    """The widths of a network's layers."""
    weights = {call.layer: (call.shape, model.get_parameter(f"{call.layer}.weight".removeprefix("."))) for call in made}
    return {name: _grouped(shape, weight.shape[1], len(weight)) for name, (shape, weight) in weights.items()}


def _extents(found: Found) -> dict[tuple[str, int], Extent]:
    """The size of each dimension of the layers' weights that a cut can touch, by layer and dimension."""
    extents: dict[tuple[str, int], Extent] = {}
    for tensor in found.tensors:
        layer, _, kind = tensor.name.rpartition(".")
        dims = sorted(dim for name, dim in found.sizes if name == tensor.name)
        if kind == "weight":
            extents |= {(layer, dim): extent for dim, extent in zip(dims, tensor.extents, strict=True)}
    return extents
