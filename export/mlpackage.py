"""Writing a Core ML package: a program's constants laid down anew, each in the form that takes fewest bytes.

Forms and layout are coremltools' own, byte for byte: a plain `const`; `constexpr_sparse_to_dense` (a bit mask and
its survivors, from iOS 16); int8 with a scale per row, dense as `constexpr_affine_dequantize` (from iOS 16) or
`constexpr_blockwise_shift_scale` (from iOS 18), sparse as `constexpr_sparse_blockwise_shift_scale` (from iOS 18).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dwindle.export import bitmask
from dwindle.export.mlblob import INLINE, WeightFile, tensor_type, value
from dwindle.export.mlprogram import MODEL, WEIGHTS, main_block, operations
from dwindle.export.quantize import SCALES, Stored

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block, Operation
    from coremltools.proto.Model_pb2 import Model

_STRING = 2
_FROM_IOS_18 = 9
"""specificationVersion from which a program may hold sparse int8, and constants are inputs of what decodes them."""


def package(
    model: Model, weights: Mapping[str, NDArray[Any]], codes: Mapping[str, Stored], *, pack: bool
) -> dict[str, bytes]:
    """The files of an .mlpackage, by their paths in it: `model` with these constants, by output name.

    codes: the int8 form of those that have one. Without `pack` no form is one for zeros.
    """
    filled = type(model)()
    filled.CopyFrom(model)
    file = WeightFile()
    modern = model.specificationVersion >= _FROM_IOS_18
    for block in _blocks(main_block(filled)):
        laid: list[Operation] = []
        for operation in block.operations:
            name = operation.outputs[0].name
            if name in weights:
                laid += _smallest(name, weights[name], codes.get(name), modern, file, pack=pack)
            else:
                laid.append(operation)
        laid = [type(operation).FromString(operation.SerializeToString()) for operation in laid]
        del block.operations[:]
        block.operations.extend(laid)
    return {
        "Manifest.json": json.dumps(_manifest()).encode(),
        MODEL: filled.SerializeToString(deterministic=True),
        WEIGHTS: file.content(),
    }


class _Step(NamedTuple):
    """An operation of a form. The last one makes the tensor, those before it what that needs."""

    kind: str
    parts: dict[str, NDArray[Any] | str]
    """Its constants, and the outputs of other steps by name."""
    outputs: dict[str, NDArray[Any]]
    """Arrays of the type and shape of what it makes."""


def _smallest(
    name: str, array: NDArray[Any], held: Stored | None, modern: bool, file: WeightFile, *, pack: bool
) -> list[Operation]:
    forms = [[_Step("const", {"val": array}, {name: array})]]
    if pack and array.dtype == np.float16 and array.size >= INLINE:
        forms.append([_sparse(name, array, modern)])
    if held is not None and array.size >= INLINE:
        forms.append([_dense_codes(name, array, held, modern)])
        if pack and modern:
            forms.append(_sparse_codes(name, array, held))

    def cost(form: list[_Step]) -> int:
        scratch = WeightFile()
        in_program: int = sum(_operation(step, modern, scratch).ByteSize() for step in form)
        return in_program + len(scratch.content())

    return [_operation(step, modern, file) for step in min(forms, key=cost)]


def _sparse(name: str, array: NDArray[Any], modern: bool) -> _Step:
    alive = _alive(array)
    parts: dict[str, NDArray[Any] | str] = {"nonzero_data": array[alive], "mask": alive}
    if not modern:
        mask, _ = bitmask.encode(alive)
        parts = {"nonzero_data": array[alive], "mask": mask, "shape": np.array(array.shape, np.uint32)}
    return _Step("constexpr_sparse_to_dense", parts, {name: array})


def _sparse_codes(name: str, array: NDArray[Any], held: Stored) -> list[_Step]:
    alive = _alive(held.values)
    mask, survivors = f"{name}m", f"{name}v"
    parts: dict[str, NDArray[Any] | str] = {
        "data_mask": alive,
        "nonzero_data": held.values[alive],
        "scale": SCALES[held.scale],
    }
    return [
        _Step("constexpr_sparse_blockwise_shift_scale", parts, {mask: alive, survivors: array[alive]}),
        _Step("constexpr_sparse_to_dense", {"nonzero_data": survivors, "mask": mask}, {name: array}),
    ]


def _dense_codes(name: str, array: NDArray[Any], held: Stored, modern: bool) -> _Step:
    scale = SCALES[held.scale]
    if modern:
        return _Step("constexpr_blockwise_shift_scale", {"data": held.values, "scale": scale}, {name: array})
    parts: dict[str, NDArray[Any] | str] = {
        "quantized_data": held.values,
        "scale": scale.reshape(-1),
        "zero_point": np.zeros(len(scale), np.int8),
        "axis": np.array(0, np.int32),
    }
    return _Step("constexpr_affine_dequantize", parts, {name: array})


def _alive(array: NDArray[Any]) -> NDArray[np.bool_]:
    alive = np.asarray(array != 0)
    if not alive.any():
        alive.flat[0] = True  # a tensor without elements is legal on paper only: let the first zero survive
    return alive


def _operation(step: _Step, modern: bool, file: WeightFile) -> Operation:
    from coremltools.proto.MIL_pb2 import Operation

    operation = Operation(type=step.kind)
    for name, array in step.outputs.items():
        operation.outputs.add(name=name).type.CopyFrom(tensor_type(array.dtype, array.shape))
    for key, part in step.parts.items():
        if isinstance(part, str):
            operation.inputs[key].arguments.add(name=part)
        elif modern and step.kind != "const":
            operation.inputs[key].arguments.add().value.CopyFrom(value(part, file))
        else:
            operation.attributes[key].CopyFrom(value(part, file))
    label = operation.attributes["name"]
    label.type.tensorType.dataType = _STRING
    label.immediateValue.tensor.strings.values.append(next(reversed(step.outputs)))
    return operation


def _blocks(block: Block) -> list[Block]:
    """A block and those inside its control flow."""
    return [block, *(inner for operation in operations(block) for inner in operation.blocks)]


def _manifest() -> dict[str, Any]:
    """Paths are below Data/. Identifiers need only differ: fixed ones make equal exports equal."""
    model, weights = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
    author = {"author": "com.apple.CoreML"}
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            model: {
                **author,
                "description": "CoreML Model Specification",
                "name": "model.mlmodel",
                "path": MODEL.removeprefix("Data/"),
            },
            weights: {
                **author,
                "description": "CoreML Model Weights",
                "name": "weights",
                "path": WEIGHTS.removeprefix("Data/").rpartition("/")[0],
            },
        },
        "rootModelIdentifier": model,
    }
