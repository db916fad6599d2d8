"""The int8 codes of the layers of a network in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dwindle.export.fold import tensors
from dwindle.export.quantize import LARGEST, SCALES, Stored, store

if TYPE_CHECKING:
    from torch import nn


class Layer(NamedTuple):
    """A convolution or linear layer that computes in int8."""

    weight: str
    """The weight's name in the network."""
    bias: str | None
    """The bias's name, where it is stored in int32."""
    codes: np.ndarray
    """int8, in the weight's shape."""
    scale: np.ndarray
    """fp32, from `quantize.SCALES`, one for each of the weight's channels along `axis`."""
    axis: int
    bias_codes: np.ndarray | None
    """int32. Their scales are the weight's times that of the layer's input."""

    @property
    def path(self) -> str:
        """The layer's own name in the network."""
        return self.weight.rpartition(".")[0]


def recoded(network: nn.Module, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with the codes of another network of the same architecture. Biases keep theirs."""
    own = tensors(network)
    made = []
    for layer in layers:
        array = own[layer.weight].numpy()
        rows = np.moveaxis(array, layer.axis, 0).reshape(array.shape[layer.axis], -1)
        grid = SCALES.astype(np.float32)
        scale = grid[np.searchsorted(grid, np.abs(rows).max(1) / LARGEST).clip(max=grid.size - 1)]
        shape = [-1 if axis == layer.axis else 1 for axis in range(array.ndim)]
        codes = np.rint(array / scale.reshape(shape)).clip(-LARGEST, LARGEST).astype(np.int8)
        made.append(layer._replace(codes=codes, scale=scale))
    return tuple(made)


def held(network: nn.Module, layers: tuple[Layer, ...]) -> dict[str, Stored]:
    """What a file stores of a network's tensors, by name: the weights of layers in int8 as codes, all else in fp16."""
    weights = {name: store(name, tensor.numpy(), "fp16") for name, tensor in tensors(network).items()}
    for layer in layers:
        places = np.searchsorted(SCALES.astype(np.float32), layer.scale).astype(np.uint8)
        along = [-1 if axis == layer.axis else 1 for axis in range(layer.codes.ndim)]
        weights[layer.weight] = Stored(layer.codes, places.reshape(along))
    return weights
