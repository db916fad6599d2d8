"""Time of layers and networks from shapes.

Of a layer it is a sum of what it computes and moves, corrected by the most similar layers that were measured; of a
network a share of what its layers take, and something for each and for its weights. Where whole networks alone were
measured, what layers take is solved from those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod

import numpy as np

from dwindle.bench.prices.profile import Errors, Layer, Whole
from dwindle.price import Shape

_KINDS = ("1×1", "spatial", "depthwise")
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


BLOCKS = (1, 16)
"""In blocks of how many channels kernels may compute: onnxruntime's on AVX-512 in 16, so that 24 take as long as 32."""


@dataclass(frozen=True)
class Model:
    """What predicts times in milliseconds."""

    layer: Callable[[Shape], float]
    """Of a layer by itself."""
    network: Callable[[Mapping[Shape, int]], float]
    """Of a network that has so many layers of each shape."""


def fitted(layers: Sequence[Layer], wholes: Sequence[Whole]) -> Model:
    """The model of what was measured; `layers` may be empty where there are a dozen networks."""
    alone = SingleLayers(layers) if layers else None
    return _fitted(alone, wholes)


def _fitted(alone: SingleLayers | None, wholes: Sequence[Whole]) -> Model:
    if alone:
        return Model(alone, Networks(alone, wholes))
    solved = WholesAlone(wholes)
    return Model(lambda shape: solved({shape: 1}), solved)


class SingleLayers:
    """Milliseconds of a layer by itself."""

    def __init__(self, measured: Sequence[Layer]) -> None:
        found = [one for one in measured if one.ms > 0]
        self._block = min(BLOCKS, key=lambda block: _misfit(_blocked(found, block)))
        self._measured = _blocked(found, self._block)
        self._weights = {
            name: _solved(self._of(name)) for name in dict.fromkeys(kind(one.shape) for one in self._measured)
        }
        self._all = _solved(self._measured)
        self._places = np.array([_place(one.shape) for one in self._measured])
        self._off = np.array([math.log(one.ms / self._linear(one.shape)) for one in self._measured])
        self._kinds = np.array([kind(one.shape) for one in self._measured])

    def __call__(self, shape: Shape) -> float:
        shape = _rounded_up(shape, self._block)
        near = np.exp(-((self._places - _place(shape)) ** 2).sum(1) / (2 * _NEAR**2)) * (self._kinds == kind(shape))
        return self._linear(shape) * math.exp(float(near @ self._off) / (float(near.sum()) + _DOUBT))

    def _of(self, name: str) -> list[Layer]:
        found = [one for one in self._measured if kind(one.shape) == name]
        return found if len(found) >= FEWEST else self._measured

    def _linear(self, shape: Shape) -> float:
        return max(float(_features(shape) @ self._weights.get(kind(shape), self._all)), 1e-6)


class Networks:
    """Milliseconds of a network: a share of what its layers take by themselves, and something for each, and for their
    weights."""

    def __init__(self, layers: SingleLayers, measured: Sequence[Whole]) -> None:
        self._layers = layers
        # A layer by itself also brings its input and output into the form that its kernel wants; in a network the
        # layers hand that form on: the share is below 1. Its weights stay in the cache, where those of a network's
        # layers take turns.
        rows = np.array([self._parts(one.shapes) / one.ms for one in measured]).reshape(-1, 3)
        self._weights = nonnegative(rows) if len(rows) > 3 else np.array([1.0, 0.0, 0.0])

    def __call__(self, shapes: Mapping[Shape, int]) -> float:
        return max(float(self._parts(shapes) @ self._weights), 1e-6)

    def _parts(self, shapes: Mapping[Shape, int]) -> np.ndarray:
        alone = sum(times * self._layers(shape) for shape, times in shapes.items())
        weights = sum(times * _weights(shape) for shape, times in shapes.items())
        return np.array([alone, float(sum(shapes.values())), weights / 1e6])


class WholesAlone:
    """Milliseconds of networks by their layers: the multiply-accumulates of each kind, what moves, and how many."""

    def __init__(self, measured: Sequence[Whole]) -> None:
        self._weights = nonnegative(np.array([self._of(one.shapes) / one.ms for one in measured]))

    def __call__(self, shapes: Mapping[Shape, int]) -> float:
        return max(float(self._of(shapes) @ self._weights), 1e-6)

    def _of(self, shapes: Mapping[Shape, int]) -> np.ndarray:
        found = np.zeros(len(_KINDS) + 3)
        for shape, times in shapes.items():
            found[_KINDS.index(kind(shape))] += times * shape.macs / 1e6
            found[len(_KINDS) :] += times * np.array([shape.activations / 1e6, _weights(shape) / 1e6, 1.0])
        return found


def layer_errors(measured: Sequence[Layer]) -> Errors:
    """Those of layers that are predicted from the layers of other parts."""
    found = []
    for part in range(PARTS):
        model = SingleLayers([one for index, one in enumerate(measured) if index % PARTS != part])
        found += [model(one.shape) / one.ms - 1 for one in measured[part::PARTS] if one.ms > 0]
    return _errors(found)


def whole_errors(measured: Sequence[Layer], wholes: Sequence[Whole]) -> Errors:
    """Those of networks that are predicted from all layers and the networks of other architectures."""
    alone = SingleLayers(measured) if measured else None
    return _errors(
        [
            _fitted(alone, [other for other in wholes if other.architecture != one.architecture]).network(one.shapes)
            / one.ms
            - 1
            for one in wholes
        ]
    )


def _errors(relative: Sequence[float]) -> Errors:
    sizes = np.abs(relative)
    return Errors(float(np.median(sizes)), float(np.quantile(sizes, 0.9)), len(relative))


def _solved(measured: Sequence[Layer]) -> np.ndarray:
    """Weights of the features, none negative, for the least relative error."""
    return nonnegative(np.array([_features(one.shape) / one.ms for one in measured]))


def nonnegative(rows: np.ndarray) -> np.ndarray:
    """The weights, none negative, by which rows come nearest to 1: the best of those that subsets of columns give.

    That is what `scipy.optimize.nnls` finds; the gate, which predicts too, does without SciPy.
    """
    count = rows.shape[1]
    scale = np.maximum(rows.max(0), 1e-12)
    gram, sums = (rows / scale).T @ (rows / scale), (rows / scale).sum(0)
    best, least = np.zeros(count), 0.0
    for size in range(1, count + 1):
        for chosen in map(list, combinations(range(count), size)):
            found = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], sums[chosen], rcond=None)[0]
            # With the residual's slope zero on the subset, its square is len(rows) - sums @ found.
            if found.min() >= 0 and (left := -float(sums[chosen] @ found)) < least - 1e-12:
                best, least = np.zeros(count), left
                best[chosen] = found
    weights: np.ndarray = best / scale
    return weights


def _features(shape: Shape) -> np.ndarray:
    """What a layer computes, reads and writes, in millions; and 1."""
    read, written = prod(shape.size) * shape.inputs, prod(shape.spatial) * shape.outputs
    unfolded = prod(shape.spatial) * shape.inputs // shape.groups * prod(shape.kernel)
    return np.array([shape.macs, read, written, _weights(shape), unfolded, 1e6]) / 1e6


def _weights(shape: Shape) -> int:
    return prod(shape.kernel) * shape.inputs // shape.groups * shape.outputs


def _blocked(measured: Sequence[Layer], block: int) -> list[Layer]:
    return [Layer(_rounded_up(one.shape, block), one.ms) for one in measured]


def _rounded_up(shape: Shape, block: int) -> Shape:
    """A layer whose channels fill blocks; fewer inputs than a block are read as they are."""
    inputs, outputs = (-(-width // block) * block for width in (shape.inputs, shape.outputs))
    if shape.groups == 1:
        return replace(shape, inputs=inputs if shape.inputs > block else shape.inputs, outputs=outputs)
    if shape.groups == shape.inputs == shape.outputs:
        return replace(shape, inputs=inputs, outputs=outputs, groups=inputs)
    return shape


def _misfit(measured: Sequence[Layer]) -> float:
    """How far off all layers' times are, as the median of the logarithms, where features alone predict them."""
    weights = _solved(measured)
    return float(np.median([abs(math.log(one.ms / max(_features(one.shape) @ weights, 1e-6))) for one in measured]))


def _place(shape: Shape) -> np.ndarray:
    """Logarithms of a layer's sizes, by which the similar ones are found."""
    sizes = (shape.inputs, shape.outputs, prod(shape.spatial), prod(shape.kernel), prod(shape.stride) or 1)
    return np.log([max(size, 1) for size in sizes])
