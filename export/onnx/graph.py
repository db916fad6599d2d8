"""A network's ONNX graph without its weights: traced once, filled with any weights of the same shapes.

What a phone runtime does not read is left out (stack traces, long names): in a network of a few kilobytes that is most
of the graph. What an older one needs stays: a name for each node, and an IR version that it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from dwindle.export.architecture import once
from dwindle.export.blame import refusal
from dwindle.export.dynamic import axes_of, symbol
from dwindle.export.fold import short_names, trace
from dwindle.export.onnx.consumers import NEWEST, lower
from dwindle.export.onnx.nodes import graphs
from dwindle.models.signature import input_names, output_names
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

_SPATIAL_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0}
"""Per axis, by the text of Conv and the pooling operators; their schemas can't say it."""


@once
def skeleton(network: nn.Module, inputs: tuple[Tensor, ...], opset: int = NEWEST) -> ModelProto:
    """The graph of a network in eval mode, its parameters and buffers named by `short_names` and absent.

    opset: the newest operator set that it may be in; it is in the lowest in which its nodes mean the same. Raises
    UsageError where the network cannot be traced or has an operator that ONNX lacks.
    """
    return graph_of(trace(network, inputs), network, opset)


def graph_of(program: ExportedProgram, network: nn.Module, opset: int = NEWEST) -> ModelProto:
    """The graph of a traced network, or of what was made of it; the network names its tensors, inputs and outputs.

    opset: as of `skeleton`. Raises UsageError where it has an operator that ONNX lacks.
    """
    names = short_names(network)
    try:
        with quiet():
            model = _optimized(program, names, opset)
    except Exception as error:
        raise refusal(error, type(network).__name__, "written as ONNX") from error
    _separate_outputs(model)
    _name_sizes(model, {symbol(program, axis.places[0]): axis.name for axis in axes_of(program, network)})
    _shorten(model, set(names.values()), _outer_names(model, network))
    lower(model)
    return model


def _optimized(program: ExportedProgram, names: dict[str, str], opset: int) -> ModelProto:
    import torch
    from onnx_ir import serde
    from onnxscript.optimizer import optimize_ir

    with _one_library():
        exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, opset_version=opset)
    assert exported is not None
    graph = exported.model.graph
    inputs = len(graph.inputs)
    # As inputs, the weights are unknown to the optimizer: no value of theirs can shape the graph.
    for name in names.keys() & graph.initializers.keys():
        value = graph.initializers.pop(name)
        value.const_value = None
        value.name = names[name]
        graph.inputs.append(value)
    optimize_ir(exported.model)
    model: ModelProto = serde.serialize_model(exported.model)
    del model.graph.input[inputs:]
    return model


@contextmanager
def _one_library() -> Iterator[None]:
    """Within the block, torch's exporter uses the list of ONNX functions that it made first, and their signatures.

    It makes both for each export, from the source text of some five hundred functions, in two thirds of the time that a
    small network's export takes. The list is onnxscript's own, whatever is exported.
    """
    from torch.onnx._internal.exporter import _registration
    from torch.onnx._internal.exporter._registration import onnxscript_apis  # type: ignore[attr-defined]

    schemas: Any = vars(_registration)["_schemas"]
    made, read = onnxscript_apis.get_torchlib_ops, schemas.op_signature_from_function
    onnxscript_apis.get_torchlib_ops = _functions
    schemas.op_signature_from_function = partial(_signature, read)
    try:
        yield
    finally:
        onnxscript_apis.get_torchlib_ops = made
        schemas.op_signature_from_function = read


@cache
def _functions() -> list[Any]:
    from onnxscript._framework_apis.torch_2_5 import get_torchlib_ops

    found: list[Any] = get_torchlib_ops()
    return found


@cache
def _signature(read: Callable[..., Any], function: Any, *named: Any, **since: Any) -> Any:
    return read(function, *named, **since)


def _separate_outputs(model: ModelProto) -> None:
    """Gives every output a value of its own, in place: the optimizer makes one of outputs that are equal."""
    taken = {value.name for value in model.graph.input}
    for value in model.graph.output:
        if value.name in taken:
            again = f"{value.name}_{len(taken)}"
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [again]))
            value.name = again
        taken.add(value.name)


def _name_sizes(model: ModelProto, names: Mapping[str, str]) -> None:
    """Names the sizes of inputs and outputs that vary, in place, in words for what they were traced as."""
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), size.dim_param)


def _outer_names(model: ModelProto, network: nn.Module) -> dict[str, str]:
    """The network's own names of its inputs and outputs, by those that the converter gave them."""
    inputs, outputs = model.graph.input, model.graph.output
    return {
        **dict(zip((value.name for value in inputs), input_names(network, len(inputs)), strict=True)),
        **dict(zip((value.name for value in outputs), output_names(network), strict=True)),
    }


def _shorten(model: ModelProto, weights: set[str], outer: Mapping[str, str]) -> None:
    """Strips in place what no runtime reads and gives every inner value a name of a few bytes.

    outer: the names that inputs and outputs are to have, by their present ones."""
    del model.metadata_props[:]
    for field in ("doc_string", "producer_name", "producer_version"):
        model.ClearField(field)
    model.graph.name = "net"
    kept = weights | {""}
    short = dict(outer)

    def name(old: str) -> str:
        return old if old in kept else short.setdefault(old, f"_{len(weights) + len(short)}")

    for graph in graphs(model.graph):
        del graph.value_info[:], graph.metadata_props[:]
        graph.ClearField("doc_string")
        for value in (*graph.input, *graph.output, *graph.initializer):
            del value.metadata_props[:]
            value.ClearField("doc_string")
            value.name = name(value.name)
        for node in graph.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
            node.input[:] = [name(old) for old in node.input]
            node.output[:] = [name(old) for old in node.output]


def name_nodes(model: ModelProto) -> None:
    """Gives every node a name of a few bytes in place, no two the same.

    onnxruntime before 1.22 derives the names of fused nodes from those of what it fuses, and refuses a model in which
    two come out equal: without names, one with two attention layers.
    """
    for index, node in enumerate(node for graph in graphs(model.graph) for node in graph.node):
        node.name = f"{index:x}"


def stamp(model: ModelProto) -> None:
    """States in place the lowest IR version that has the model's operator sets, and functions where it has any.

    onnxruntime refuses an IR version newer than itself, whatever is in the file: 1.17 knows those up to 9.
    """
    lowest = onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True)
    model.ir_version = max(lowest, 8 if model.functions else 4)  # before 4, initializers were inputs too


def drop_defaults(model: ModelProto) -> None:
    """Removes in place what operators' attributes are anyway if they are left out.

    onnxruntime and onnx do without. Other tools read `kernel_shape` and the like from the attribute alone.
    """
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    for graph in graphs(model.graph):
        for node in graph.node:
            _drop_defaults(node, opsets.get(node.domain, 1))


def _drop_defaults(node: NodeProto, opset: int) -> None:
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes

    def implied(attribute: AttributeProto) -> bool:
        value = onnx.helper.get_attribute_value(attribute)
        if node.op_type == "Conv" and attribute.name == "kernel_shape":
            return True  # read from the weight
        if attribute.name in _SPATIAL_DEFAULTS and isinstance(value, list):
            return set(value) <= {_SPATIAL_DEFAULTS[attribute.name]}
        default = schema[attribute.name].default_value
        return bool(default.type == attribute.type and onnx.helper.get_attribute_value(default) == value)

    stated = [attribute for attribute in node.attribute if not implied(attribute)]
    del node.attribute[:]
    node.attribute.extend(stated)
