"""int8 weights between activations in float: what a layer reads is rounded to int8 when it runs, without calibration.

XNNPACK's kernels for that (qd8-f32-qc8w) take weights with a scale per output channel and a float input, which they
round row by row, over the range of each row: a linear layer's last dimension, a pointwise convolution's pixel, any
other convolution's image. It has them for linear layers and for convolutions of one or two dimensions, but not for
depthwise ones or images of one channel. A table of embeddings is int8 with a scale per row: ExecuTorch's portable
kernels look up codes and scales, and multiply them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dwindle.export.architecture import once
from dwindle.export.executorch.int8_graph import READS, kind_of, operands_of, written
from dwindle.export.fold import distinct, tensors, trace
from dwindle.export.quantize import SCALES, Stored, int8_along, quantized, store

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node

    from dwindle.export.target import Rounding

_CONVOLUTIONS = {"conv1d": 3, "conv2d": 4}
"""The dimensions of a batch of what they read."""


@dataclass(frozen=True)
class Int8Weights:
    """A network with int8 weights."""

    network: nn.Module
    """The network in fp32."""
    inputs: tuple[Tensor, ...]
    weights: Mapping[str, Stored]
    """What a file stores of each tensor, by name: codes, or fp32."""
    floats: tuple[str, ...]
    """The modules with weights that stay float."""

    @property
    def weights_only(self) -> nn.Module:
        """The network with weights as the file stores them, its activations in fp32."""
        return quantized(self.network, self.weights)

    @property
    def program(self) -> GraphModule:
        """The network in the operators that a file of it is lowered from."""
        return written(self.weights_only, self.inputs, self.weights, lowered=True)

    @property
    def reference(self) -> GraphModule:
        """The network as XNNPACK computes it: each row rounded as its kernels do."""
        return written(self.weights_only, self.inputs, self.weights, lowered=False)


def int8_weights(network: nn.Module, inputs: tuple[Tensor, ...], rounding: Rounding | None = None) -> Int8Weights:
    """A network (`fold.deployable`'s) with int8 weights wherever a runtime takes them.

    rounding: chooses their codes; None: the nearest are taken. Raises UsageError for a weight beyond the range of int8,
    and for a network that cannot be traced.
    """
    axes = _coded(network, inputs)
    held = {}
    for name, tensor in tensors(network).items():
        array, axis = tensor.numpy(), axes.get(name)
        codes = None if axis is None else store(name, array.swapaxes(0, axis), "int8")
        if codes is None or codes.scale is None:  # rows that are short have no scale
            codes = Stored(array)
        held[name] = int8_along(array, 1) if axis and codes.scale is not None else codes
    if rounding is not None:
        held = rounding(network, held)
    left = [name for name, tensor in network.named_parameters() if tensor.dim() > 1 and held[name].scale is None]
    return Int8Weights(network, inputs, held, tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in left)))


def counted(network: nn.Module, inputs: tuple[Tensor, ...]) -> Int8Weights:
    """A network of the same architecture whose file is as large as that of any: no two of its tensors are equal."""
    made, generator = int8_weights(distinct(network), inputs), np.random.default_rng(0)

    def apart(tensor: Stored) -> Stored:
        if tensor.scale is None:
            return tensor
        return replace(tensor, scale=generator.integers(len(SCALES), size=tensor.scale.shape, dtype=np.uint8))

    return replace(made, weights={name: apart(tensor) for name, tensor in made.weights.items()})


@once
def _coded(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """The dimension that has the scales of each tensor, by name, which only layers read that take it in int8."""
    program = trace(network, inputs)
    signature, every = program.graph_signature, tensors(network)
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    read: dict[int, set[int | None]] = defaultdict(set)  # by the tensor, which may have several names
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            read[id(every[names[node.name]])] |= {_rows(user, node, names) for user in node.users}
    found = {name: read[id(tensor)] for name, tensor in every.items()}
    return {name: axis for name, axes in found.items() if len(axes) == 1 for axis in axes if axis is not None}


def _rows(call: Node, weight: Node, names: Mapping[str, str]) -> int | None:
    """The dimension of a weight that a call takes in int8 with a scale for each element; None: not in int8."""
    kind = kind_of(call)
    if kind not in READS or [place for place, one in enumerate(call.args) if one is weight] != [READS[kind]]:
        return None
    shape = weight.meta["val"].shape
    if kind == "embedding":
        return 0
    _, given, bias = operands_of(call)
    fits = given.meta["val"].dim() == _CONVOLUTIONS[kind] if kind in _CONVOLUTIONS else given.meta["val"].dim() > 1
    takes = (
        fits
        and not call.kwargs  # what `addmm` multiplies its operands by
        and (bias is None or getattr(bias, "name", None) in names)
        and not (kind in _CONVOLUTIONS and shape[1] == 1)  # depthwise, as is a convolution of one channel
        and not any("batch_norm" in str(user.target) for user in call.users)  # which XNNPACK folds into fp32 weights
    )
    return int(kind == "addmm") if takes else None
