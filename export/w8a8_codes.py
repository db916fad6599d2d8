"""The int8 codes of the layers of a network in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dwindle.export.fold import tensors
from dwindle.export.quantize import SCALES, Stored, int8_along, store

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
        found = int8_along(own[layer.weight].numpy(), layer.axis)
        assert found.steps is not None
        made.append(layer._replace(codes=found.values, scale=found.steps.ravel()))
    return tuple(made)


def places_of(scale: np.ndarray) -> np.ndarray:
    """The indices into SCALES of scales that are among them."""
    return np.searchsorted(SCALES.astype(np.float32), scale).astype(np.uint8)


def held(network: nn.Module, layers: tuple[Layer, ...]) -> dict[str, Stored]:
    """What a file stores of a network's tensors, by name: the weights of layers in int8 as codes, all else in fp16."""
    weights = {name: store(name, tensor.numpy(), "fp16") for name, tensor in tensors(network).items()}
    for layer in layers:
        places = places_of(layer.scale)
        along = [-1 if axis == layer.axis else 1 for axis in range(layer.codes.ndim)]
        weights[layer.weight] = Stored(layer.codes, places.reshape(along))
    return weights
