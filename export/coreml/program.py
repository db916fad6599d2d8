"""A network as a Core ML program: converted once by coremltools, then filled with any weights of its shapes.

Names, which in a small network outweigh the graph, are shortened, and equal settings are shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError
from dwindle.export.architecture import once
from dwindle.export.blame import refusal
from dwindle.export.coreml.compute import FP16, Compute
from dwindle.export.coreml.interface import ARRAYS_ONLY, Interface
from dwindle.export.coreml.lowering import lowered
from dwindle.export.coreml.ranges import own_ranges
from dwindle.export.coreml.read import WEIGHTS, constants, main_block, operations
from dwindle.export.coreml.sources import Part, sources_of
from dwindle.export.fold import distinct, short_names, trace
from dwindle.export.quantize import Stored
from dwindle.export.w8a8_convert import is_call, value_of
from dwindle.models.signature import input_names, output_names
from dwindle.quiet import quiet

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block
    from coremltools.proto.Model_pb2 import Model
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import GraphModule

    from dwindle.export.w8a8 import Quantized

_MOST_SETTINGS = 10
"""The most integers that an operation of Core ML takes as a setting: two for each of five dimensions."""


@dataclass(frozen=True)
class Program:
    """A converted network."""

    model: Model
    weights: dict[str, NDArray[Any]]
    """The weight file's constants and the network's smaller tensors, by the name under which operations read them."""
    sources: dict[str, str]
    """The name of the network's tensor for each of `weights` that is one unchanged."""
    parts: dict[str, Part]
    """What each of the other `weights` is that is a part of one, or one in another shape."""
    names: dict[str, str]
    """The converter's name for each value of the program, by its own."""
    complete: bool
    """Whether nothing else in the program follows from the network's tensors, so that they can be replaced."""

    def filled(self, tensors: Mapping[str, Stored]) -> dict[str, NDArray[Any]]:
        """The program's weights with those of another network of the same architecture in their places.

        They are in fp16; those of operations that compute in fp32 have fp16's values, or the network's own, in fp32.

        tensors: that network's, by name; infinite values stay so. Raises UsageError for a weight beyond fp16's range.
        """
        filled = dict(self.weights)
        for name, source in self.sources.items():
            filled[name] = _as(tensors[source].decoded(), filled[name].dtype, source)
        for name, part in self.parts.items():
            filled[name] = _as(part.of(tensors[part.tensor].decoded(), filled[name]), filled[name].dtype, part.tensor)
        return filled


def _as(exact: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    values: NDArray[Any] = exact.astype(dtype) + dtype.type(0)
    if (np.isfinite(exact) & ~np.isfinite(values)).any():
        raise UsageError(
            f"{name} has values beyond 65504, the largest of fp16, in which Core ML computes: scale it down, or give "
            "`compute` fp32",
            code="out-of-range",
            name=name,
        )
    return values


@once
def convert(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    min_os: str,
    interface: Interface = ARRAYS_ONLY,
    compute: Compute = FP16,
) -> Program:
    """A program of a network's architecture, for `Program.filled`.

    min_os: `iOS16` (which includes macOS 13), `iOS17` or `iOS18`: the program runs there and on later systems.

    Raises UsageError for an interface that the network cannot have, and where it cannot be traced or has an operator
    that Core ML lacks.
    """
    return _program(distinct(network), inputs, min_os, interface, compute, distinct(network, seed=1))


def convert_as_is(
    network: nn.Module, inputs: tuple[Tensor, ...], min_os: str, interface: Interface, compute: Compute = FP16
) -> Program:
    """As `convert`, for a network some of whose constants coremltools computes from weights: the program keeps them."""
    return _program(network, inputs, min_os, interface, compute, None)


def convert_int8(quantized: Quantized, inputs: tuple[Tensor, ...], min_os: str, interface: Interface) -> Program:
    """As `convert_as_is`, for a network in int8, whose operations read activations that were quantised and dequantised.

    Each quantised value has a scale and a zero point of its own, so that the program's size does not depend on them.
    """
    network, graph = quantized.weights_only, _numbers_decoded(quantized.activations_only)
    return _program(network, inputs, min_os, interface, FP16, None, graph)


def _numbers_decoded(program: GraphModule) -> GraphModule:
    """The same, in place, with the numbers that it computes with in float: coremltools decodes their codes in int8, in
    which a code less its zero point may not fit."""
    for node in list(program.graph.nodes):
        if is_call(node, "dequantize_per_tensor") and node.args[0].op == "get_attr":
            codes, *how = node.args
            program.register_buffer(f"{node.name}_value", node.target(value_of(codes.target, program), *how))
            with program.graph.inserting_before(node):
                node.replace_all_uses_with(program.graph.get_attr(f"{node.name}_value"))
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _program(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    min_os: str,
    interface: Interface,
    compute: Compute,
    other: nn.Module | None,
    graph: nn.Module | None = None,
) -> Program:
    """other: a network of the same architecture and other values; without it, `complete` is False. graph: what is
    written, where it is not the network itself: it reads the network's tensors by their names."""
    interface.check(network, inputs)
    form = (inputs, min_os, interface, compute)
    program, model, blobs = _traced_and_converted(network, *form, graph)
    ranges = own_ranges(main_block(model)) if graph else set()
    found = constants(model, blobs)
    sources, parts, complete = sources_of(found, program, network)
    parts = {} if other is None else parts  # values that need not differ say nothing
    others = {name: array for name, array in found.items() if name not in sources and name not in parts}
    if complete and other is not None and (parts or any(_may_be_computed(one, program) for one in others.values())):
        again, *converted = _traced_and_converted(other, *form)
        there = constants(*converted)
        complete = there.keys() == found.keys() and all(
            np.array_equal(array, there[name], equal_nan=True) for name, array in others.items()
        )
        complete = complete and sources_of(there, again, other)[:2] == (sources, parts)
    in_file = {
        operation.outputs[0].name
        for operation in operations(main_block(model))
        if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue")
    }
    weights = in_file | sources.keys() | parts.keys()
    short = short_names(network)
    firsts = {name: constant for constant, name in reversed(sources.items())}
    renamed = {constant: short[name] for name, constant in firsts.items()}
    _share_settings(main_block(model), keep=weights | ranges)
    _rename(main_block(model), renamed, len(short))
    return Program(
        model=model,
        weights={renamed.get(name, name): found[name] for name in found if name in weights},
        sources={renamed[constant]: name for constant, name in sources.items()},
        names={own: name for name, own in renamed.items()},
        parts={renamed.get(constant, constant): part for constant, part in parts.items()},
        complete=complete and other is not None,
    )


def _traced_and_converted(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    min_os: str,
    interface: Interface,
    compute: Compute,
    graph: nn.Module | None = None,
) -> tuple[ExportedProgram, Model, bytes]:
    """torch.export's program, and Core ML's with its weight file. Raises as `convert` does."""
    program = trace(interface.normalizing(graph or network), inputs, network)
    try:
        with quiet():
            model, weights = _converted(program, min_os, interface, compute)
    except Exception as error:
        raise refusal(error, type(network).__name__, "written as Core ML") from error
    _name_outside(model, input_names(network, len(inputs)), output_names(network), bool(interface.classes))
    return program, model, weights


def _name_outside(model: Model, inputs: tuple[str, ...], outputs: tuple[str, ...], classifies: bool) -> None:
    """Gives a converted model's inputs and outputs these names, in place.

    classifies: whether its outputs are a class and scores by class, which Core ML has its own names for.
    """
    (function,) = model.mlProgram.functions.values()
    block = main_block(model)
    described, names = model.description, dict(zip((value.name for value in function.inputs), inputs, strict=True))
    if not classifies:
        names |= zip(block.outputs, outputs, strict=True)
    taken = {output.name for operation in operations(block) for output in operation.outputs}
    names = {**{name: f"{name}_" for name in taken & set(names.values())}, **names}
    for value in (*function.inputs, *described.input, *described.output):
        value.name = names.get(value.name, value.name)
    for operation in operations(block):
        for output in operation.outputs:
            output.name = names.get(output.name, output.name)
        if "name" in operation.attributes and operation.outputs:
            operation.attributes["name"].immediateValue.tensor.strings.values[:] = [operation.outputs[0].name]
    _refer(block, names)
    block.outputs[:] = [names.get(name, name) for name in block.outputs]


def _may_be_computed(constant: NDArray[Any], program: ExportedProgram) -> bool:
    """Whether a constant may follow from weights, as it is no setting: if so, converting twice tells."""
    if constant.dtype.kind != "f":
        return constant.ndim > 1 or constant.size > _MOST_SETTINGS
    if constant.size > 1:
        return True
    numbers = [
        number
        for node in program.graph.nodes
        for number in (*node.args, *node.kwargs.values())
        if isinstance(number, int | float)
    ]
    with np.errstate(over="ignore"):
        return constant.item() not in np.array(numbers, float).astype(constant.dtype)


def _converted(program: ExportedProgram, min_os: str, interface: Interface, compute: Compute) -> tuple[Model, bytes]:
    import coremltools

    passes = coremltools.PassPipeline()
    # Two weights that happen to be equal now need not be so in the network that takes their places.
    passes.remove_passes({"common::const_deduplication"})
    converted = coremltools.convert(
        lowered(program),
        minimum_deployment_target=coremltools.target[min_os],
        pass_pipeline=passes,
        compute_precision=compute.precision(),
        skip_model_load=True,
        classifier_config=coremltools.ClassifierConfig(list(interface.classes)) if interface.classes else None,
    )
    model = converted.get_spec()
    model.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    interface.describe(model)
    weights = Path(converted.weights_dir, Path(WEIGHTS).name)
    return model, weights.read_bytes() if weights.exists() else b""


def _share_settings(block: Block, keep: set[str]) -> None:
    """Merges equal constants, such as the strides of all convolutions, in place; those in `keep` are not merged."""
    first: dict[bytes, str] = {}
    merged: dict[str, str] = {}
    spare = []
    for index, operation in enumerate(block.operations):
        name = operation.outputs[0].name if operation.type == "const" else ""
        if name and name not in keep and name not in block.outputs:
            value = operation.attributes["val"].SerializeToString(deterministic=True)
            merged[name] = first.setdefault(value, name)
            if merged[name] != name:
                spare.append(index)
    for index in reversed(spare):
        del block.operations[index]
    _refer(block, merged)


def _rename(block: Block, names: dict[str, str], start: int) -> None:
    """Gives every inner value of a block a name of a few bytes, in place, and adds the new names to `names`."""
    kept = set(block.outputs)
    for operation in operations(block):
        for output in operation.outputs:
            if output.name not in kept:
                names.setdefault(output.name, f"_{start + len(names)}")
                output.name = names[output.name]
        if "name" in operation.attributes:
            operation.attributes["name"].immediateValue.tensor.strings.values[:] = [operation.outputs[0].name]
    _refer(block, names)


def _refer(block: Block, names: Mapping[str, str]) -> None:
    """Renames, in place, the values that the operations of a block read."""
    for operation in operations(block):
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name in names:
                    binding.name = names[binding.name]
        for inner in operation.blocks:
            inner.outputs[:] = [names.get(name, name) for name in inner.outputs]
