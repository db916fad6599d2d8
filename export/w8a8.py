"""w8a8: weights and activations in int8, by PyTorch 2 Export's post-training quantisation.

ExecuTorch's XNNPACKQuantizer says which operators compute in int8 and which values share a range (concatenation,
pooling, reshaping); every target that computes in int8 takes the same. Weights are symmetric with a scale per output
channel, so that a pruned one stays exactly zero. Scales lie on the grid that every int8 file of dwindle's has
(`quantize.SCALES`): compressed as a whole, MobileNetV2's is a tenth smaller for it. Activations have a scale and a zero
point per tensor. Biases are int32, in steps of their sums.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.export.answers import outputs_of
from dwindle.export.blame import refusal
from dwindle.export.cells import CellsInParts
from dwindle.export.fold import tensors, trace
from dwindle.export.quantize import Stored, with_tensors
from dwindle.export.w8a8_codes import Layer, places_of
from dwindle.export.w8a8_convert import converted, is_call, join_equal_calls, value_of
from dwindle.export.w8a8_samples import check_samples, streamed
from dwindle.models.inputs import taken
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node

    from dwindle.export.target import Rounding

_INT32 = 2**31


@dataclass(frozen=True)
class Form:
    """How a target's files hold what is not an int8 weight."""

    rest: str = "fp32"
    """What the tensors that are not int8 are stored in: fp32 or fp16."""
    bias: str = "int32"
    """What the biases of layers in int8 are stored in: int32, in steps of their sums, or like the rest."""
    whole: bool = False
    """Whether ranges are all that the samples take, as they are where another library finds them; else those of least
    squared error where these are nearer."""
    keep: tuple[str, ...] = ()
    """The layers that stay float, by their names or those of modules around them; `KEEP_AUTO`: those that lose most."""


@dataclass(frozen=True)
class Quantized:
    """A network in int8."""

    program: GraphModule
    """The network as the file computes it, up to how results are rounded, ready to be lowered, for a batch of one."""
    weights_only: nn.Module
    """The network with weights and biases as the file stores them, its activations in fp32."""
    layers: tuple[Layer, ...]
    kept: tuple[str, ...]
    """The names of the layers that stay float, though they have an int8 form."""
    layer_of: Mapping[str, str]
    """The name of the layer that a call of the program is of, by the call's name."""
    without: tuple[str, ...]
    """The kinds of operators that stay float, as they have no int8 form, such as `hardswish`."""

    @property
    def activations_only(self) -> GraphModule:
        """The program, whose layers read the network's own weights in fp32 by their names in the network."""
        from torch.fx.graph_module import _assign_attr

        program = copy.deepcopy(self.program)
        named = {node.name: name for name, node in self._decoding}
        exact = tensors(self.weights_only)
        for node in list(program.graph.nodes):
            if (name := named.get(node.name)) is None:
                continue
            _assign_attr(exact[name], program, name)
            with program.graph.inserting_before(node):
                node.replace_all_uses_with(program.graph.get_attr(name))
        program.graph.eliminate_dead_code()
        program.recompile()
        return program

    _decoding: tuple[tuple[str, Node], ...] = ()
    """The names of weights, each with the node of the program that decodes it."""


FORM = Form()
KEEP_AUTO = ("auto",)


def require_packages() -> None:
    """Raises RuntimeUnavailable where what quantises networks is not installed."""
    if not (find_spec("executorch") and find_spec("torchao")):
        raise RuntimeUnavailable(
            "w8a8 is made by packages that are not installed: pip install executorch torchao",
            code="not-installed",
            name="executorch",
        )


def quantize(
    network: nn.Module, samples: tuple[Tensor, ...], form: Form = FORM, rounding: Rounding | None = None
) -> Quantized:
    """A network (`fold.deployable`'s) in int8, its activations' ranges those that `samples` take.

    rounding: chooses the codes of its weights; None: the nearest are taken. Raises UsageError for samples that no range
    follows from, and for a network that cannot be traced or quantised.
    """
    check_samples(samples)
    with taken(samples, "train"):
        outputs_of(network, tuple(tensor[:1] for tensor in samples))
    samples = streamed(network, samples)
    if form.keep != KEEP_AUTO:
        return _quantized(network, samples, form, rounding)
    kept = _least_noise(network, samples, form)
    return kept if rounding is None else _quantized(network, samples, replace(form, keep=kept.kept), rounding)


def _least_noise(network: nn.Module, samples: tuple[Tensor, ...], form: Form) -> Quantized:
    """The network in int8 but for those layers that lose most, at the nearest codes."""
    from dwindle.export.w8a8_keep import judging, most_lossy, noise

    every = _quantized(network, samples, replace(form, keep=()))
    few = judging(samples)
    if not (lossy := most_lossy(network, every.layers, every.activations_only, every.layer_of, few)):
        return every
    fewer = _quantized(network, samples, replace(form, keep=lossy))
    return min(every, fewer, key=lambda made: noise(network, made.program, few))


def _quantized(
    network: nn.Module, samples: tuple[Tensor, ...], form: Form, rounding: Rounding | None = None
) -> Quantized:
    from dwindle.export.w8a8_keep import named_layers, neighbours

    one = tuple(tensor[:1] for tensor in samples)
    with CellsInParts():
        traced = trace(network, one).module()  # whose tensors are the traced network's own
    join_equal_calls(traced)
    names = _names(traced)
    layer_of = {call: read[0].rpartition(".")[0] for call, read in names.items() if read and read[0]}
    kept = named_layers(list(dict.fromkeys(layer_of.values())), form.keep)

    def floating(call: Node) -> bool:
        return bool(kept) and neighbours(call, layer_of) <= set(kept)

    try:
        with quiet():
            program, without = converted(traced, samples, whole=form.whole, floating=floating)
    except UsageError:
        raise
    except Exception as error:
        raise refusal(error, type(network).__name__, "quantised to int8") from error
    found = list(_layers(names, program))
    if rounding is not None:
        network = _recoded(network, found, program, rounding)
    rounded = _rounded(found, program, form)
    layers = tuple(_layer(one, rounded, program) for one in found)
    if form.rest == "fp16":
        left = {name: tensor for name, tensor in tensors(network).items() if name not in rounded}
        rounded |= {name: tensor.half().float() for name, tensor in left.items() if tensor.dtype == _float32()}
        _set(program, rounded)
    decoding = tuple((one.weight, one.decoded) for one in found)
    return Quantized(program, with_tensors(network, rounded), layers, kept, layer_of, without, decoding)


class Calibration:
    """Quantises networks by samples. The last result is cached, as it takes as long as running all samples."""

    def __init__(self, form: Form = FORM) -> None:
        self.form = form
        self._last: tuple[nn.Module, Quantized] | None = None

    def of(self, network: nn.Module, samples: tuple[Tensor, ...], rounding: Rounding | None) -> Quantized:
        """What `quantize` makes of a network; the samples and the rounding are the same in every call."""
        if self._last is None or self._last[0] is not network:
            self._last = network, quantize(network, samples, self.form, rounding)
        return self._last[1]


class _Found(NamedTuple):
    """A convolution or linear layer of a converted network."""

    weight: str
    bias: str | None
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


def _layers(names: dict[str, list[str | None]], converted: GraphModule) -> Iterator[_Found]:
    for node in converted.graph.nodes:
        read = names.get(node.name, [])
        if read and read[0] and is_call(node.args[1], "dequantize_per_channel"):
            step = node.args[0].args[1] if is_call(node.args[0], "dequantize_per_tensor") else None
            yield _Found(read[0], read[1] if len(read) > 1 else None, node.args[1], step)


def _recoded(network: nn.Module, found: list[_Found], program: GraphModule, rounding: Rounding) -> nn.Module:
    """Gives a program the codes that `rounding` chooses, in place; the network with the biases that go with them.

    The ranges of activations stay: they were found with weights in fp32.
    """
    import torch

    nearest = {name: Stored(tensor.numpy()) for name, tensor in tensors(network).items()}
    for layer in found:
        codes, scale, _, axis = (_value(argument, program) for argument in layer.decoded.args[:4])
        nearest[layer.weight] = Stored(codes.numpy(), places_of(scale.numpy()), axis=int(axis))
    chosen = rounding(network, nearest)
    with torch.no_grad():
        for layer in found:
            codes, scale = (_value(argument, program) for argument in layer.decoded.args[:2])
            weight = chosen[layer.weight]
            codes.copy_(torch.from_numpy(weight.values))
            assert weight.steps is not None
            scale.copy_(torch.from_numpy(weight.steps).flatten())
    others = {name: tensor for name, tensor in chosen.items() if tensor.scale is None and tensor is not nearest[name]}
    biases = {name: torch.from_numpy(tensor.values) for name, tensor in others.items()}
    _set(program, biases)
    return with_tensors(network, biases)


def _rounded(found: list[_Found], converted: GraphModule, form: Form) -> dict[str, Tensor]:
    """What the file stores for each tensor that it rounds to integers, but for a bias that several layers round
    differently."""
    import torch

    rounded: dict[str, Tensor] = {}
    apart = set()
    for layer in found:
        codes, scale, zero, axis, low, high, dtype = (_value(argument, converted) for argument in layer.decoded.args)
        rounded[layer.weight] = torch.ops.quantized_decomposed.dequantize_per_channel(
            codes, scale, zero, axis, low, high, dtype
        )
        if layer.bias is None or layer.step is None or form.bias != "int32":
            continue
        bias = torch.ops.quantized_decomposed.dequantize_per_channel(*_bias(layer, converted))
        if layer.bias in rounded and not torch.equal(rounded[layer.bias], bias):
            apart.add(layer.bias)
        rounded[layer.bias] = bias
    return {name: tensor for name, tensor in rounded.items() if name not in apart}


def _bias(layer: _Found, converted: GraphModule) -> tuple[Any, ...]:
    """A layer's bias in int32, and what else `dequantize_per_channel` takes.

    ExecuTorch rounds it when it lowers the program: `QuantParams.from_bias`.
    """
    import torch

    scale, zero = (_value(argument, converted) for argument in layer.decoded.args[1:3])
    assert layer.bias is not None
    assert layer.step is not None
    span = (scale * layer.step, zero * 0, 0, -_INT32, _INT32 - 1, torch.int32)
    codes = torch.ops.quantized_decomposed.quantize_per_channel(value_of(layer.bias, converted), *span)
    return codes, *span


def _layer(found: _Found, rounded: dict[str, Tensor], converted: GraphModule) -> Layer:
    codes, scale, _, axis = (_value(argument, converted) for argument in found.decoded.args[:4])
    bias = found.bias if found.step is not None and found.bias in rounded else None
    # Not from its rounded value, whose float32 doesn't tell codes beyond 2^24 apart.
    bias_codes = _bias(found, converted)[0].numpy() if bias is not None else None
    return Layer(found.weight, bias, codes.numpy(), scale.numpy(), int(axis), bias_codes)


def _set(program: GraphModule, values: dict[str, Tensor]) -> None:
    """Gives a program's tensors these values, in place, by their names in the network."""
    import torch

    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "get_attr" and node.target in values:
                value_of(node.target, program).copy_(values[node.target])


def _float32() -> Any:
    import torch

    return torch.float32


def _value(argument: Any, module: GraphModule) -> Any:
    return value_of(argument.target, module) if hasattr(argument, "target") else argument
