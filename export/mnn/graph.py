"""A network as an MNN graph: converted once by MNN's converter, then filled with any weights of its shapes.

Weights are recognised in the converted file by their values, which are made to differ before. The name of a layer in
the file says which tensors it holds, in the order of the schema: `_7.0123 _8.0` are the tensors `_7` and `_8`
(`fold.short_names`), and the order of their dimensions, without those of size one. `-` is none
of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.architecture import once
from dwindle.export.fold import distinct, short_names, tensors
from dwindle.export.matching import Floats, Source
from dwindle.export.mnn import converter, file, forms
from dwindle.export.quantize import Stored, stored

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]


@dataclass(frozen=True)
class Graph:
    """A converted network, without the tensors that it is filled with."""

    content: bytes
    sources: dict[tuple[int, str], Source]
    """The tensor that a field of a layer holds, by the layer's place in the file and the field's name."""
    complete: bool
    """Whether all constants are tensors of the network, so that they can be replaced by another network's."""

    def filled(self, weights: Mapping[str, Stored], *, pack: bool) -> tuple[bytes, frozenset[int]]:
        """The file with the tensors of another network of the same architecture.

        Returns it with the blocks by which its sparse layers are computed.
        """
        net = file.parse(self.content)
        layers = list(file.layers(net))
        blocks = set()
        for (place, field), source in self.sources.items():
            layer = layers[place]
            tensor = weights[source.name]
            if field == "weight" and layer["type"] in (forms.CONVOLUTION, forms.DEPTHWISE):
                written = forms.encode(_ordered(tensor, source.axes), pack=pack, thresholds=file.thresholds(layer))
                layer["main"] |= written.fields
                blocks |= {written.block} - {0}
            else:
                values = tensor.decoded().squeeze().transpose(source.axes)
                layer["main"][field] = np.ascontiguousarray(values).reshape(-1)
        return file.serialize(net), frozenset(blocks)


@once
def convert(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """The graph of a network's architecture. Raises UsageError where the network has an operator that MNN lacks."""
    return _found(distinct(network), inputs)


def convert_as_is(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """As `convert`, for a network some of whose constants the converter computes from weights: the graph keeps them."""
    return _found(network, inputs)


def read(content: bytes, network: nn.Module) -> dict[str, Array]:
    """The network's tensors that a file has under their names, in the network's order of dimensions, in fp32.

    network: its names and shapes are read, never its values. Raises ValueError for a damaged file.
    """
    expected = tensors(network)
    names = {short: name for name, short in short_names(network).items()}
    found: dict[str, Array] = {}
    for layer in file.layers(file.parse(content)):
        labels = layer.get("name", b"").decode(errors="replace").split()
        for label, flat in zip(labels, file.constants(layer).values(), strict=False):
            short, _, axes = label.partition(".")
            if short not in names:
                continue
            name = names[short]
            sizes = [size for size in expected[name].shape if size > 1]
            order = [int(axis) for axis in axes]
            own = flat.reshape([sizes[axis] for axis in order]).transpose(np.argsort(order))
            own = np.ascontiguousarray(own).reshape(expected[name].shape)
            if name in found and found[name].tobytes() != own.tobytes():
                raise ValueError(f"it has {name} twice, and differently")
            found[name] = own
    return found


def _found(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    net = file.parse(converter.convert(_onnx(network, inputs), type(network).__name__))
    file.strip(net)
    short = short_names(network)
    floats = Floats(network)
    sources, complete = {}, True
    for place, layer in enumerate(file.layers(net)):
        labels = []
        for field, constant in file.constants(layer).items():
            source = floats.source(constant, flat=True)
            if source is not None:
                sources[place, field] = source
                layer["main"][field] = None
            elif constant.any() and floats.may_be_made_from(constant):
                complete = False
            labels.append("-" if source is None else f"{short[source.name]}.{''.join(map(str, source.axes))}")
        if labels:
            layer["name"] = " ".join(labels).encode()
    return Graph(file.serialize(net), sources, complete)


def _onnx(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The network as a plain ONNX file."""
    from dwindle.export.onnx.fill import fill
    from dwindle.export.onnx.graph import skeleton

    names = short_names(network)
    weights = {names[name]: tensor for name, tensor in stored(network, "fp32").items()}
    model, _ = fill(skeleton(network, inputs), weights, pack=False)
    content: bytes = model.SerializeToString()
    return content


def _ordered(tensor: Stored, axes: tuple[int, ...]) -> Stored:
    """A layer's weights with their dimensions as the file has them, rows of output channels first."""
    if axes == tuple(range(len(axes))):
        return tensor
    return Stored(np.ascontiguousarray(tensor.decoded().squeeze().transpose(axes)))
