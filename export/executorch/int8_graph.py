"""The graph of a network with int8 weights, as XNNPACK's partitioner recognises it, and as its kernels compute it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dwindle.export.fold import trace
from dwindle.export.quantize import LARGEST, SCALES, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node

READS = {"linear": 1, "conv1d": 1, "conv2d": 1, "addmm": 2, "embedding": 0}
"""Which argument of a call is the weight that may be int8."""


def kind_of(node: Node) -> str:
    """ATen's name of the operator that a node calls, such as `linear`."""
    return str(node.target).removeprefix("aten.").partition(".")[0] if node.op == "call_function" else ""


def argument_of(call: Node, place: int, default: Any) -> Any:
    return call.args[place] if len(call.args) > place else default


def operands_of(call: Node) -> tuple[Any, Any, Any]:
    """The weight, the input and the bias of a layer's call."""
    if kind_of(call) == "addmm":
        return call.args[2], call.args[1], call.args[0]
    return call.args[1], call.args[0], argument_of(call, 2, None)


def by_image(kernel: tuple[int, ...], stride: Any, padding: Any, groups: int) -> bool:
    """Whether XNNPACK rounds what a convolution reads over a whole image, as it does unless it computes the convolution
    as a linear layer of each pixel. The arguments are ATen's."""
    padded = not isinstance(padding, str) and any(_each(padding))  # same and valid add nothing for a kernel of one
    pointwise = all(size == 1 for size in kernel) and all(one == 1 for one in _each(stride))
    return not pointwise or padded or groups > 1


def written(
    network: nn.Module, inputs: tuple[Tensor, ...], weights: Mapping[str, Stored], *, lowered: bool
) -> GraphModule:
    """A traced network in which each layer that has codes decodes its weight from them, and reads rounded values.

    network: with the weights that a file stores. weights: what it stores of each, by name.
    lowered: in operators that XNNPACK's partitioner knows; False: in ones that round as its kernels do.
    """
    module: Any = trace(network, inputs).module()
    writer = _Writer(module, weights, lowered=lowered)
    for node in list(module.graph.nodes):
        if (kind := kind_of(node)) in READS:
            weight = node.args[READS[kind]]
            if weight.op == "get_attr" and weights[weight.target].scale is not None:
                with module.graph.inserting_before(node):
                    (writer.embedding if kind == "embedding" else writer.layer)(node, weight.target)
    module.graph.eliminate_dead_code()
    module.recompile()
    graph_module: GraphModule = module
    return graph_module


class _Writer:
    """Writes the calls of a graph anew, in place."""

    def __init__(self, module: Any, weights: Mapping[str, Stored], *, lowered: bool) -> None:
        import torch.ao.quantization.fx._decomposed  # registers the operators of quantized_decomposed

        self.module, self.weights, self.lowered = module, weights, lowered
        self.aten, self.own = torch.ops.aten, torch.ops.quantized_decomposed

    def embedding(self, node: Node, name: str) -> None:
        import torch

        codes, scales, rows = *self.parts(name), node.args[1]
        found = self.call(self.aten._to_copy.default, self.call(self.aten.embedding.default, codes, rows))
        found.kwargs = {"dtype": torch.float32}
        step = self.call(self.aten.embedding.default, scales, rows)
        node.replace_all_uses_with(self.call(self.aten.mul.Tensor, found, step))
        self.module.graph.erase_node(node)

    def layer(self, node: Node, name: str) -> None:
        import torch

        kind, values = kind_of(node), self.weights[name].values
        _, given, bias = operands_of(node)
        image = kind.startswith("conv") and by_image(
            values.shape[2:], *(argument_of(node, place, default) for place, default in ((3, 1), (4, 0), (6, 1)))
        )
        codes, scales = (self.module.get_buffer(part.target) for part in self.parts(name))
        if kind == "conv1d":  # there are kernels for images alone: this is one of a single row
            given, codes = self.call(self.aten.unsqueeze.default, given, 2), codes.unsqueeze(2)
        weight = self.call(
            self.own.dequantize_per_channel.default,
            self.constant(f"{name}_image" if kind == "conv1d" else f"{name}_codes", codes),
            self.constant(f"{name}_steps", scales.flatten()),
            self.constant(f"{name}_zeros", torch.zeros(len(codes), dtype=torch.int64)),
            *(0, -LARGEST, LARGEST, torch.int8),
        )
        if kind == "addmm":  # a linear layer whose weight is transposed
            node.target, node.args = self.aten.linear.default, (bias, given, weight)
        node.args = (self.rounded(given, kind, image=image), weight, bias, *node.args[3:])
        if kind == "conv1d":
            self.as_image(node)

    def as_image(self, node: Node) -> None:
        """Makes a convolution of one dimension, whose operands have a row in it, one of two."""
        stride, padding, dilation = (argument_of(node, place, default) for place, default in ((3, 1), (4, 0), (5, 1)))
        along = padding if isinstance(padding, str) else [0, *_each(padding)]
        sizes = [1, *_each(stride)], along, [1, *_each(dilation)]
        node.target = self.aten.conv2d.padding if isinstance(padding, str) else self.aten.conv2d.default
        node.args = (*node.args[:2], argument_of(node, 2, None), *sizes, argument_of(node, 6, 1))
        with self.module.graph.inserting_after(node):
            row = self.call(self.aten.squeeze.dim, node, 2)
        node.replace_all_uses_with(row, delete_user_cb=lambda user: user is not row)

    def rounded(self, given: Node, kind: str, *, image: bool) -> Node:
        """What a layer reads, rounded to int8 and back."""
        import torch

        linear = not kind.startswith("conv")
        if not self.lowered:
            return self.call(_image if image else _row if linear else _pixel, given)
        # XNNPACK knows a convolution's by one scale for all, and makes one for each image or pixel of it.
        span = (-128, 127, torch.int8)
        if linear:
            chosen = self.call(self.own.choose_qparams_per_token_asymmetric.default, given, torch.int8)
            rounds, back = self.own.quantize_per_token.default, self.own.dequantize_per_token.default
        else:
            least = float(np.finfo(np.float32).eps)
            chosen = self.call(self.own.choose_qparams.tensor, given, -128, 127, least, torch.int8)
            rounds, back = self.own.quantize_per_tensor.tensor, self.own.dequantize_per_tensor.tensor
        ranges = [self.call(operator.getitem, chosen, place) for place in (0, 1)]
        codes = self.call(rounds, given, *ranges, *span)
        return self.call(back, codes, *ranges, *span, *((torch.float32,) if linear else ()))

    def parts(self, name: str) -> tuple[Node, Node]:
        """The codes of a weight, and its scales, one per row."""
        import torch

        held = self.weights[name]
        assert held.scale is not None
        codes = np.ascontiguousarray(held.values.swapaxes(0, held.axis or 0))
        steps = SCALES[held.scale].astype(np.float32).reshape(len(codes), 1)
        return (
            self.constant(f"{name}_codes", torch.from_numpy(codes)),
            self.constant(f"{name}_scales", torch.from_numpy(steps)),
        )

    def constant(self, name: str, value: Tensor) -> Node:
        name = name.replace(".", "_")
        if not hasattr(self.module, name):  # a weight may be read twice
            self.module.register_buffer(name, value)
        node: Node = self.module.graph.get_attr(name)
        return node

    def call(self, function: Any, *arguments: Any) -> Node:
        node: Node = self.module.graph.call_function(function, arguments)
        return node


def _each(given: Any) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _row(given: Tensor) -> Tensor:
    """Values rounded to int8 and back, over the range of each row of the last dimension, as XNNPACK rounds them."""
    import torch

    own = torch.ops.quantized_decomposed
    ranges = own.choose_qparams_per_token_asymmetric(given, torch.int8)
    span = (-128, 127, torch.int8)
    codes = own.quantize_per_token(given, *ranges, *span)
    rounded: Tensor = own.dequantize_per_token(codes, *ranges, *span, torch.float32)
    return rounded


def _image(given: Tensor) -> Tensor:
    return _row(given.flatten(1)).reshape(given.shape)


def _pixel(given: Tensor) -> Tensor:
    return _row(given.movedim(1, -1)).movedim(-1, 1)
