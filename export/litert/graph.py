"""A network as a LiteRT graph: converted once by litert-torch, then filled with any weights of its shapes.

Weights are recognised in the converted file by their values, which are made to differ before. LiteRT puts channels
last, so most weights have their dimensions in another order than the network's. A weight's name in the file, such as
`_7.120`, says which tensor it is (`fold.short_names`) and the order of its dimensions, without those of size one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.architecture import once
from dwindle.export.blame import refusal
from dwindle.export.fold import distinct, short_names, tensors
from dwindle.export.litert import file, w8a8
from dwindle.export.litert.file import Place
from dwindle.export.litert.rules import RANK, suit_sparse_kernels
from dwindle.export.matching import Floats, Source
from dwindle.export.quantize import Stored
from dwindle.models.signature import input_names, output_names
from dwindle.quiet import silent

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]


@dataclass(frozen=True)
class Graph:
    """A converted network."""

    content: bytes
    sources: dict[Place, Source]
    short: dict[str, str]
    complete: bool
    """Whether all constants are tensors of the network, so that they can be replaced by another network's."""

    def filled(self, weights: Mapping[str, Stored], *, pack: bool) -> tuple[bytes, bool]:
        """The file with the tensors of another network of the same architecture, and whether any is sparse."""
        model = file.parse(self.content)
        packed = False
        shapes = {place: array.shape for place, (_, array) in file.constants(model).items()}
        for place, source in self.sources.items():
            array = weights[source.name].values.squeeze().transpose(source.axes).reshape(shapes[place])
            name = ".".join([self.short[source.name], "".join(map(str, source.axes))])
            packed |= file.put(model, place, name, np.ascontiguousarray(array), pack=pack)
        return file.serialize(model), packed


@once
def convert(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """The graph of a network's architecture. Raises UsageError where the network has an operator that LiteRT lacks."""
    return _found(distinct(network), inputs)


def convert_as_is(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """As `convert`, for a network some of whose constants the converter computes from weights: the graph keeps them."""
    return _found(network, inputs)


def read(content: bytes, network: nn.Module) -> dict[str, Array]:
    """The network's tensors that a file has under their names, in the network's order of dimensions.

    network: its names and shapes are read, never its values. Raises ValueError for a damaged file.
    """
    expected = tensors(network)
    names = {short: name for name, short in short_names(network).items()}
    found: dict[str, Array] = {}
    model = file.parse(content)
    for label, array in [*file.constants(model).values(), *w8a8.decoded(model).items()]:
        short, _, axes = label.partition("_duplicated")[0].partition(".")  # the quantizer's word for another copy
        if short not in names:
            continue
        name = names[short]
        own = array.squeeze().transpose(np.argsort([int(axis) for axis in axes]))
        own = np.ascontiguousarray(own).reshape(expected[name].shape)
        if name in found and found[name].tobytes() != own.tobytes():
            raise ValueError(f"it has {name} twice, and differently")
        found[name] = own
    return found


def _found(network: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    model = file.parse(_converted(network, inputs))
    _name_outside(model, input_names(network, len(inputs)), output_names(network))
    _strip(model)
    suit_sparse_kernels(model)
    floats = Floats(network)
    sources, complete = {}, True
    for place, (_, constant) in file.constants(model).items():
        if (source := floats.source(constant.squeeze())) is not None:
            sources[place] = source
        elif floats.may_be_made_from(constant):
            complete = False
    return Graph(file.serialize(model), sources, short_names(network), complete)


def _converted(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    try:
        with silent():
            import litert_torch
            import torch
            from litert_torch.fx_infra import decomp

            prelu = torch.ops.aten._prelu_kernel.default
            before = litert_torch.config.show_progress, decomp.pre_convert_decomp()[prelu]
            litert_torch.config.show_progress = False
            decomp.add_pre_convert_decomp(prelu, partial(_prelu, before[1]))
            try:
                return bytes(litert_torch.convert(network, inputs).model_content())
            finally:
                litert_torch.config.show_progress = before[0]
                decomp.add_pre_convert_decomp(prelu, before[1])
    except Exception as error:
        raise refusal(error, type(network).__name__, "written as LiteRT") from error


def _prelu(spelled: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """max(x, 0) + weight · min(x, 0). litert-torch takes max(-x, 0) for the latter: the converter would carry the minus
    into the weights of a linear layer before it, which the file then holds twice."""
    if x.dim() == RANK:
        return spelled(x, weight)
    above = x.relu()
    return above + weight * (x - above)


def _name_outside(model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Gives the file's inputs and outputs these names, in place, in its tensors and in its signature."""
    graph = model.subgraphs[0]
    for places, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        named = dict(zip(map(int, places), names, strict=True))
        for place, name in named.items():
            graph.tensors[place].name = name.encode()
        for signature in model.signatureDefs or []:
            for entry in signature.inputs if places is graph.inputs else signature.outputs:
                entry.name = named[entry.tensorIndex].encode()


def _strip(model: Any) -> None:
    """Removes what no runtime reads, in place: inner names, and metadata for other converters."""
    for graph in model.subgraphs:
        outer = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            if index not in outer:
                tensor.name = None
    model.metadata = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    model.description = None
