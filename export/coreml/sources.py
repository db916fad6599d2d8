"""Which constants of a converted Core ML program are tensors of the network, or parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export.fold import tensors

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

_HALF = np.dtype(np.float16)


class Part(NamedTuple):
    """A part of one of the network's tensors, as its values lie in memory, that the converter made a constant of."""

    tensor: str
    start: int

    def of(self, tensor: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
        """That part of `tensor`, in the shape of `like`."""
        return tensor.reshape(-1)[self.start : self.start + like.size].reshape(like.shape)


def sources_of(
    found: Mapping[str, NDArray[Any]], program: ExportedProgram, network: nn.Module
) -> tuple[dict[str, str], dict[str, Part], bool]:
    """The network's tensor for each constant that is one unchanged, the part of one for each that is that, and whether
    all that the program reads is among them."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read = {node.name: names[node.name] for node in program.graph.nodes if node.name in names and node.users}
    expected = {
        name: {_HALF: array, np.dtype(np.float32): tensors(network)[name].numpy()}
        for name, array in half(network).items()
    }
    sources: dict[str, str] = {}
    for constant, array in found.items():
        # coremltools names a constant after torch's placeholder, which may begin with another's name
        placeholder = max((name for name in read if constant.startswith(name)), key=len, default="")
        value = expected.get(read.get(placeholder, ""))
        if value is not None and array.dtype in value and np.array_equal(array, value[array.dtype]):
            sources[constant] = read[placeholder]
    vectors = [name for name in dict.fromkeys(read.values()) if name in expected and expected[name][_HALF].ndim == 1]
    parts = {
        constant: part
        for constant, array in found.items()
        if constant not in sources and array.size > 1 and array.dtype in (np.float16, np.float32)
        for name in vectors
        if (part := _part(array, name, expected[name][array.dtype])) is not None
    }
    covered = {*sources.values(), *(part.tensor for part in parts.values())}
    return sources, parts, expected.keys() & read.values() <= covered


def _part(array: NDArray[Any], name: str, vector: NDArray[Any]) -> Part | None:
    """Which of a vector's equal parts a constant is, if it is one."""
    starts = range(0, len(vector) - array.size + 1, array.size)
    flat = array.reshape(-1)
    return next((Part(name, start) for start in starts if np.array_equal(vector[start:][: array.size], flat)), None)


def half(network: nn.Module) -> dict[str, NDArray[np.float16]]:
    """Every float tensor of a network as Core ML stores it."""
    floats = {name: tensor for name, tensor in tensors(network).items() if tensor.is_floating_point()}
    return {name: (tensor.half() + 0).numpy() for name, tensor in floats.items()}  # + 0: no negative zeros
