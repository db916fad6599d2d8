"""Time of layers from their shapes: a sum of what they compute and move, corrected by the most similar measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from dwindle.bench.prices.profile import Errors, Layer, Whole
from dwindle.price import Shape

PARTS = 5
"""Into how many parts layers are divided, each to be predicted from the others."""
FEWEST = 8
"""A kind of layers of which fewer were measured is fitted together with all."""
_NEAR = 0.6
"""The distance, in factors of e over all sizes, at which a measured layer counts by exp(-1/2) in a correction."""
_DOUBT = 0.5
"""The weight of no correction at all, where a layer like the one in question counts 1."""


def kind(shape: Shape) -> str:
    """What kernels a layer is computed by, as far as its shape tells."""
    if shape.groups > 1:
        return "depthwise"
    return "1×1" if prod(shape.kernel) == 1 and set(shape.stride) <= {1} else "spatial"


class Layers:
    """Milliseconds of a layer by itself."""

    def __init__(self, measured: Sequence[Layer]) -> None:
        self._measured = [one for one in measured if one.ms > 0]
        self._weights = {
            name: _solved(self._of(name)) for name in dict.fromkeys(kind(one.shape) for one in self._measured)
        }
        self._all = _solved(self._measured)
        self._places = np.array([_place(one.shape) for one in self._measured])
        self._off = np.array([math.log(one.ms / self._linear(one.shape)) for one in self._measured])
        self._kinds = np.array([kind(one.shape) for one in self._measured])

    def __call__(self, shape: Shape) -> float:
        near = np.exp(-((self._places - _place(shape)) ** 2).sum(1) / (2 * _NEAR**2)) * (self._kinds == kind(shape))
        return self._linear(shape) * math.exp(float(near @ self._off) / (float(near.sum()) + _DOUBT))

    def _of(self, name: str) -> list[Layer]:
        found = [one for one in self._measured if kind(one.shape) == name]
        return found if len(found) >= FEWEST else self._measured

    def _linear(self, shape: Shape) -> float:
        return max(float(_features(shape) @ self._weights.get(kind(shape), self._all)), 1e-6)


class Networks:
    """Milliseconds of a network: of its layers, and of the rest by their number and their activations."""

    def __init__(self, layers: Layers, measured: Sequence[Whole]) -> None:
        self._layers = layers
        rows = np.array([_rest(one.layers) / one.ms for one in measured]).reshape(-1, 2)
        left = np.array([1 - self._sum(one.layers) / one.ms for one in measured])
        # Layers share caches in a network and are joined with what follows: the rest may take less than nothing.
        self._weights = np.linalg.lstsq(rows, left, rcond=None)[0] if len(rows) > 2 else np.zeros(2)

    def __call__(self, shapes: Sequence[Shape]) -> float:
        return max(self._sum(shapes) + float(_rest(shapes) @ self._weights), 1e-6)

    def _sum(self, shapes: Iterable[Shape]) -> float:
        return sum(map(self._layers, shapes))


def layer_errors(measured: Sequence[Layer]) -> Errors:
    """Those of layers that are predicted from the layers of other parts."""
    found = []
    for part in range(PARTS):
        model = Layers([one for index, one in enumerate(measured) if index % PARTS != part])
        found += [model(one.shape) / one.ms - 1 for one in measured[part::PARTS] if one.ms > 0]
    return _errors(found)


def whole_errors(measured: Sequence[Layer], wholes: Sequence[Whole]) -> Errors:
    """Those of networks that are predicted from all layers and the other networks."""
    layers = Layers(measured)
    return _errors(
        [
            Networks(layers, [*wholes[:index], *wholes[index + 1 :]])(one.layers) / one.ms - 1
            for index, one in enumerate(wholes)
        ]
    )


def _errors(relative: Sequence[float]) -> Errors:
    sizes = np.abs(relative)
    return Errors(float(np.median(sizes)), float(np.quantile(sizes, 0.9)), len(relative))


def _solved(measured: Sequence[Layer]) -> np.ndarray:
    """Weights of the features, none negative, for the least relative error."""
    from scipy.optimize import nnls

    rows = np.array([_features(one.shape) / one.ms for one in measured])
    scale = rows.max(0)
    weights: np.ndarray = nnls(rows / scale, np.ones(len(rows)))[0] / scale
    return weights


def _features(shape: Shape) -> np.ndarray:
    """What a layer computes, reads and writes, in millions; and 1."""
    read, written = prod(shape.size) * shape.inputs, prod(shape.spatial) * shape.outputs
    weights = prod(shape.kernel) * shape.inputs // shape.groups * shape.outputs
    unfolded = prod(shape.spatial) * shape.inputs // shape.groups * prod(shape.kernel)
    return np.array([shape.macs, read, written, weights, unfolded, 1e6]) / 1e6


def _place(shape: Shape) -> np.ndarray:
    """Logarithms of a layer's sizes, by which the similar ones are found."""
    sizes = (shape.inputs, shape.outputs, prod(shape.spatial), prod(shape.kernel), prod(shape.stride) or 1)
    return np.log([max(size, 1) for size in sizes])


def _rest(shapes: Sequence[Shape]) -> np.ndarray:
    return np.array([len(shapes) / 100, sum(shape.activations for shape in shapes) / 1e6])
