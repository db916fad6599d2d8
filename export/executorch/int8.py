"""int8 for XNNPACK, by PyTorch 2 Export's post-training quantisation: weights and activations.

Weights are symmetric with a scale per output channel, so that a pruned one stays exactly zero. Scales lie on the
grid that every int8 file of dwindle's has (`quantize.SCALES`): compressed as a whole, MobileNetV2's is a tenth
smaller for it. Activations have a scale and a zero point per tensor, of the range that calibration saw. Biases are
int32, in steps of their sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dwindle.errors import UsageError
from dwindle.export.blame import refusal
from dwindle.export.fold import tensors, trace
from dwindle.export.quantize import SCALES
from dwindle.export.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

_INT32 = 2**31


@dataclass(frozen=True)
class Quantized:
    """A network in int8."""

    program: GraphModule
    """The network as the file computes it, up to how results are rounded, ready to be lowered, for a batch of one."""
    weights_only: nn.Module
    """The network with weights and biases as the file stores them, its activations in fp32."""


def quantize(network: nn.Module, samples: tuple[Tensor, ...]) -> Quantized:
    """A network (`fold.deployable`'s) in int8, its activations' ranges those that `samples` take.

    Raises UsageError for samples that no range follows from, and for a network that cannot be traced or quantised.
    """
    check_samples(samples)
    one = tuple(tensor[:1] for tensor in samples)
    traced = trace(network, one).module()
    names = _names(traced)
    try:
        with quiet():
            converted = _converted(traced, samples)
    except Exception as error:
        raise refusal(error, type(network).__name__, "quantised for ExecuTorch") from error
    return Quantized(converted, _with(network, _rounded(names, converted)))


def check_samples(samples: tuple[Tensor, ...]) -> None:
    """Raises UsageError for samples from which no range of activations follows."""
    if not samples or not all(len(tensor) for tensor in samples):
        raise UsageError(
            "there are no samples to calibrate int8 on: return some from the task's `inputs` of the training split",
            code="no-samples",
            name="inputs",
        )
    for tensor in samples:
        if not tensor.is_floating_point():
            continue  # token ids, say, which are not rounded
        if not tensor.isfinite().all():
            raise UsageError(
                "the samples to calibrate int8 on are not all finite: check the task's `inputs` of the training split",
                code="not-finite",
                name="inputs",
            )
        if tensor.min() == tensor.max():
            raise UsageError(
                f"the samples to calibrate int8 on are all {float(tensor.min()):g}, from which no range of values "
                "follows: return real ones from the task's `inputs` of the training split",
                code="constant-samples",
                name="inputs",
            )


def _converted(traced: nn.Module, samples: tuple[Tensor, ...]) -> GraphModule:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    config = get_symmetric_quantization_config(is_per_channel=True)
    config = replace(config, weight=_on_grid(config.weight))

    class Finite(XNNPACKQuantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            annotated: GraphModule = super().annotate(model)
            for node in _reading_infinity(annotated):
                node.meta.pop(Q_ANNOTATION_KEY, None)
            return annotated

    observed = prepare_pt2e(traced, Finite().set_global(config))
    with torch.no_grad():
        for sample in zip(*(tensor.split(1) for tensor in samples), strict=True):
            observed(*sample)
    converted: GraphModule = convert_pt2e(observed)
    return converted


def _reading_infinity(module: GraphModule) -> list[Node]:
    """The calls that read infinite values, as attention's scores meet a causal mask: no range of int8 spans to one."""
    infinite: set[Node] = set()
    reading = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = _value_of(node.target, module)
            if value.is_floating_point() and value.isinf().any():
                infinite.add(node)
        elif infinite.intersection(node.all_input_nodes):
            reading.append(node)
            if "softmax" not in str(node.target):  # which makes zeros of them
                infinite.add(node)
    return reading


def _on_grid(weight: QuantizationSpec) -> QuantizationSpec:
    """The specification with scales of `quantize.SCALES`.

    They begin at 2⁻¹⁴. XNNPACK's own recipe ends at 2⁻¹², which leaves rows that stay below 0.03, as folded batch
    norm makes them, a few of their 254 steps.
    """
    import torch
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver

    grid = torch.from_numpy(SCALES.astype(np.float32))

    # torchao leaves a transposed convolution's channels where they are by `PerChannel` in the class's name.
    class OnGridPerChannel(PerChannelMinMaxObserver):
        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            scale, zero = super().calculate_qparams()
            return grid[torch.searchsorted(grid, scale).clamp(max=len(grid) - 1)], zero

    return replace(weight, observer_or_fake_quant_ctr=OnGridPerChannel.with_args(eps=float(grid[0])))


class _Layer(NamedTuple):
    """A convolution or linear layer of a converted network."""

    weight: str
    """The weight's name in the network."""
    bias: str | None
    """The bias's name in the network; None: there is none."""
    decoded: Node
    """The node that decodes the weights from int8 codes."""
    step: float | None
    """The scale of the layer's input; None: the input is not quantised."""


def _names(traced: nn.Module) -> dict[str, list[str | None]]:
    """The names of the tensors that each call reads beside its first argument, by the call's name.

    This has to be found before observers are inserted between tensors and calls.
    """
    graph: Any = traced.graph
    return {
        node.name: [value.target if getattr(value, "op", None) == "get_attr" else None for value in node.args[1:]]
        for node in graph.nodes
        if node.op == "call_function"
    }


def _layers(names: dict[str, list[str | None]], converted: GraphModule) -> Iterator[_Layer]:
    for node in converted.graph.nodes:
        read = names.get(node.name, [])
        if read and read[0] and _is("dequantize_per_channel", node.args[1]):
            step = node.args[0].args[1] if _is("dequantize_per_tensor", node.args[0]) else None
            yield _Layer(read[0], read[1] if len(read) > 1 else None, node.args[1], step)


def _rounded(names: dict[str, list[str | None]], converted: GraphModule) -> dict[str, Tensor]:
    """What the file stores for each tensor that it rounds, but for a bias that several layers round differently."""
    import torch

    rounded: dict[str, Tensor] = {}
    apart = set()
    for layer in _layers(names, converted):
        codes, scale, zero, axis, low, high, dtype = (_value(argument, converted) for argument in layer.decoded.args)
        rounded[layer.weight] = torch.ops.quantized_decomposed.dequantize_per_channel(
            codes, scale, zero, axis, low, high, dtype
        )
        if layer.bias is None or layer.step is None:
            continue
        # ExecuTorch rounds it when it lowers the program: `QuantParams.from_bias`.
        span = (scale * layer.step, zero * 0, 0, -_INT32, _INT32 - 1, torch.int32)
        bias = torch.ops.quantized_decomposed.quantize_per_channel(_value_of(layer.bias, converted), *span)
        bias = torch.ops.quantized_decomposed.dequantize_per_channel(bias, *span)
        if layer.bias in rounded and not torch.equal(rounded[layer.bias], bias):
            apart.add(layer.bias)
        rounded[layer.bias] = bias
    return {name: tensor for name, tensor in rounded.items() if name not in apart}


def _with(network: nn.Module, rounded: dict[str, Tensor]) -> nn.Module:
    """A copy of the network with these tensors. Raises AssertionError should a pruned weight have come back to life."""
    import torch

    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in tensors(copied).items():
            if name in rounded:
                if tensor.dim() > 1:
                    assert not ((tensor == 0) & (rounded[name] != 0)).any(), f"{name} was pruned, and is no longer"
                tensor.copy_(rounded[name])
    return copied


def _is(operator: str, node: Any) -> bool:
    return getattr(node, "op", None) == "call_function" and f".{operator}." in f".{node.target}."


def _value(argument: Any, module: GraphModule) -> Any:
    return _value_of(argument.target, module) if hasattr(argument, "target") else argument


def _value_of(name: str, module: GraphModule) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)
