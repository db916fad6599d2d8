"""A traced network in int8, by PyTorch 2 Export's quantisation: observers put in, samples run, observers replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dwindle.errors import UsageError
from dwindle.export.calls import overwritten
from dwindle.export.quantize import SCALES

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

_JUDGED = 16
"""How many samples say which ranges are nearer to the network."""
_HUGE = 1e30
"""From this value on, a number stands for an infinite one."""


def converted(
    traced: nn.Module, samples: tuple[Tensor, ...], *, whole: bool, floating: Callable[[Node], bool]
) -> tuple[GraphModule, tuple[str, ...]]:
    """A traced network in int8, for a batch of one, its activations' ranges those that `samples` take; and the kinds of
    its operators that have no int8 form, which stay float.

    The ranges are those of least squared error, or all that the samples take, whichever leaves the outputs nearer to
    the network's on some samples that they were not taken from; with `whole` the latter. floating: whether a
    call stays float. Raises UsageError, naming the value, where no range follows.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    from dwindle.export.w8a8_ranges import Range

    config = get_symmetric_quantization_config(is_per_channel=True)
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=Range.with_args(eps=2**-12))
    config = replace(config, weight=_on_grid(config.weight), input_activation=activation, output_activation=activation)

    class Finite(XNNPACKQuantizer):
        # Batch norm is folded before, and each pattern of one would be traced at length.
        SUPPORTED_PATTERNS = [one for one in XNNPACKQuantizer.SUPPORTED_PATTERNS if "_bn" not in one.name]  # noqa: RUF012

        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            """Makes tensors of the numbers that calls read, but for indices: the sums would be floats."""
            kept = {node: node.args for node in _of_whole_numbers(model)}
            changed: GraphModule = super().transform_for_annotation(model)
            for node, args in kept.items():
                node.args = args
            _own_reads(changed)
            changed.graph.eliminate_dead_code()
            changed.recompile()
            return changed

        def annotate(self, model: GraphModule) -> GraphModule:
            annotated: GraphModule = super().annotate(model)
            _round_after_clamps(annotated)
            kept = {node for node in annotated.graph.nodes if floating(node)}
            for node in annotated.graph.nodes:
                if kept.intersection(_shared_with(node.meta.get(Q_ANNOTATION_KEY))):
                    kept.add(node)
            for node in (*_reading_infinity(annotated), *_of_whole_numbers(annotated), *kept):
                node.meta.pop(Q_ANNOTATION_KEY, None)
            _share_input_ranges(annotated)
            kinds = [_kind(node) for node in annotated.graph.nodes if node not in kept]
            without.extend(dict.fromkeys(kind for kind in kinds if kind))
            return annotated

    def _kind(node: Node) -> str | None:
        """What a call computes in float, as it has no int8 form; None for any other node."""
        value, call = node.meta.get("val"), node.target
        if Q_ANNOTATION_KEY in node.meta or not isinstance(call, torch._ops.OpOverload) or call.is_view:
            return None
        computes = isinstance(value, torch.Tensor) and value.is_floating_point() and len(node.all_input_nodes) > 0
        return call.name().split("::")[1].split(".")[0].rstrip("_") if computes else None

    without: list[str] = []
    each = list(zip(*(tensor.split(1) for tensor in samples), strict=True))
    judged = each[:: max(1, len(each) // _JUDGED)]
    with torch.no_grad():
        exact = [flat(traced(*sample)) for sample in judged]
    observed = prepare_pt2e(traced, Finite().set_global(config))
    apart = not whole and len(each) >= 4 * len(judged)
    with torch.no_grad():
        for place, sample in enumerate(each):
            if not apart or place % (len(each) // _JUDGED):
                observed(*sample)
        _require_ranges(observed)
        clipped = None if whole else convert_pt2e(copy.deepcopy(observed))
        for module in observed.modules():
            if isinstance(module, Range):
                module.whole = True
        unclipped: GraphModule = convert_pt2e(observed)

        def noise(program: GraphModule) -> float:
            found = [flat(program(*sample)) for sample in judged]
            return sum(float(((a - b) ** 2).sum()) for a, b in zip(exact, found, strict=True))

        return (unclipped if clipped is None else min(clipped, unclipped, key=noise)), tuple(without)


def join_equal_calls(traced: Any) -> None:
    """Has one call of a layer on one value stand for all of them, in place. The exporter to ONNX does so too, and the
    one result would have the ranges of all: onnxruntime then computes the layer in float, and refuses its codes."""
    graph = traced.graph
    first: dict[Any, Node] = {}
    for call in list(graph.nodes):
        if call.op != "call_function" or all(one.op != "get_attr" for one in call.all_input_nodes):
            continue
        same = first.setdefault((call.target, call.args, tuple(call.kwargs.items())), call)
        if same is not call and _left_as_it_is(same) and _left_as_it_is(call):
            call.replace_all_uses_with(same)
            graph.erase_node(call)
    traced.recompile()


def _left_as_it_is(call: Node) -> bool:
    """Whether nothing changes the result of a call in place; what alone reads it is made not to."""
    import torch

    if overwritten(call) and len(call.users) == 1:
        (user,) = call.users
        operator: Any = user.target
        space, name = operator._schema.name.split("::")
        other = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
        user.target = getattr(other, operator._overloadname, operator)
    return not overwritten(call)


def _own_reads(module: GraphModule) -> None:
    """Has every call read its tensors by nodes of its own, in place: of the calls of one convolution the quantizer
    would take the first alone."""
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        for user in list(node.users)[1:]:
            with module.graph.inserting_after(node):
                own = module.graph.get_attr(node.target)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)


def _round_after_clamps(module: GraphModule) -> None:
    """Has a layer that a ReLU6 or another clamp follows be rounded after it, in place, as the quantizer does with ReLU.

    Rounded before it too, half of the codes would stand for values that the clamp takes away, and onnxruntime would
    decode and clamp them in float.
    """
    import torch
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    clamps = (torch.ops.aten.hardtanh.default, torch.ops.aten.hardtanh_.default)
    for clamp in module.graph.nodes:
        if clamp.target not in clamps:
            continue
        layer = clamp.args[0]
        annotation = layer.meta.get(Q_ANNOTATION_KEY)
        if annotation and len(layer.users) == 1 and isinstance(annotation.output_qspec, QuantizationSpec):
            clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=annotation.output_qspec, _annotated=True)
            layer.meta[Q_ANNOTATION_KEY] = replace(annotation, output_qspec=None)


def _share_input_ranges(module: GraphModule) -> None:
    """Has all calls of a layer that is called more than once read values of one range, in place: its bias is stored
    once, in steps of that range. The layer stays float where one of its calls does."""
    from torchao.quantization.pt2e.quantizer import SharedQuantizationSpec
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    calls: dict[str, list[Node]] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and len(node.args) > 1 and getattr(node.args[1], "op", None) == "get_attr":
            calls.setdefault(node.args[1].target, []).append(node)
    for first, *others in calls.values():
        every = (first, *others)
        if any(Q_ANNOTATION_KEY not in call.meta for call in every):
            for call in every:
                call.meta.pop(Q_ANNOTATION_KEY, None)
            continue
        for call in others:
            if call.args[0] is not first.args[0]:
                read = call.meta[Q_ANNOTATION_KEY].input_qspec_map
                read[call.args[0]] = SharedQuantizationSpec((first.args[0], first))


def _shared_with(annotation: Any) -> list[Node]:
    """The nodes whose own range a node's values share."""
    from torchao.quantization.pt2e.quantizer import SharedQuantizationSpec

    if annotation is None:
        return []
    specs = [*annotation.input_qspec_map.values(), annotation.output_qspec]
    return [
        one.edge_or_node
        for one in specs
        if isinstance(one, SharedQuantizationSpec) and not isinstance(one.edge_or_node, tuple)
    ]


def flat(outputs: Any) -> Tensor:
    """All floating-point values of a network's outputs, in a row."""
    import torch
    from torch.utils._pytree import tree_leaves

    floats = [one.flatten().double() for one in tree_leaves(outputs) if one.is_floating_point()]
    return torch.cat(floats or [torch.zeros(1)])


def _require_ranges(observed: GraphModule) -> None:
    """Raises UsageError, naming the layer, for a value that no sample reached or that was never finite."""
    from dwindle.export.w8a8_ranges import Range

    for node in observed.graph.nodes:
        if node.op != "call_module":
            continue
        module = observed.get_submodule(node.target)
        if isinstance(module, Range) and not (module.min_val.isfinite() and module.max_val.isfinite()):
            raise UsageError(
                f"no range of the values of {node.args[0].name} follows from the samples, as they never reach it or "
                "are not finite there: return real ones from the task's `inputs` of the training split",
                code="no-range",
                name=str(node.args[0].name),
            )


def _reading_infinity(module: GraphModule) -> list[Node]:
    """The calls that read infinite values, or ones near the lowest that fp32 has, as attention's scores meet a mask: no
    range of int8 spans to one."""
    infinite: set[Node] = set()
    reading = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = value_of(node.target, module)
            if value.is_floating_point() and bool((value.abs() > _HUGE).any()):
                infinite.add(node)
        elif any(isinstance(one, int | float) and abs(one) > _HUGE for one in node.args):
            infinite.add(node)
            reading.append(node)
        elif infinite.intersection(node.all_input_nodes):
            reading.append(node)
            if "softmax" not in str(node.target):  # which makes zeros of them
                infinite.add(node)
    return reading


def _of_whole_numbers(module: GraphModule) -> list[Node]:
    """The calls that read or make indices, masks or other whole numbers, which are not rounded."""
    import torch

    def is_whole(node: Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, torch.Tensor) and not value.is_floating_point()

    return [node for node in module.graph.nodes if is_whole(node) or any(map(is_whole, node.all_input_nodes))]


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


def value_of(name: str, module: GraphModule) -> Any:
    """A tensor of a graph, by the name that it reads it by."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def is_call(node: Any, operator: str) -> bool:
    """Whether a node of a graph calls this operator."""
    return getattr(node, "op", None) == "call_function" and f".{operator}." in f".{node.target}."
