"""The scales and zero points of the values that a Core ML program holds in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dwindle.export.coreml.blob import WeightFile, tensor_type, value

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block, Operation

_INT8, _UINT8 = 21, 31
"""MIL.proto's DataType."""
_ZERO = {_INT8: np.array(0, np.int8), _UINT8: np.array(0, np.uint8)}


def own_ranges(block: Block) -> set[str]:
    """Gives what quantises a value a scale and a zero point of its own, in place, and what dequantises it the same ones
    where they are equal. Returns the names of these constants.

    coremltools leaves out a zero point of 0, and merges equal constants: a file's size would depend on both.
    """
    found = {one.outputs[0].name: one for one in block.operations if one.type == "const"}
    quantizers = {one.outputs[0].name: one for one in block.operations if one.type == "quantize"}
    types = {output.name: output.type.tensorType.dataType for one in block.operations for output in one.outputs}
    own: dict[str, Operation] = {}
    laid: list[Operation] = []
    for operation in block.operations:
        if operation.type in ("quantize", "dequantize"):
            source = operation.inputs["input"].arguments[0].name
            kind = types[operation.outputs[0].name if operation.type == "quantize" else source]
            for key in ("scale", "zero_point"):
                constant = _constant(operation, key, found, kind)
                theirs = quantizers[source].inputs[key].arguments[0].name if source in quantizers else ""
                if theirs not in own or own[theirs].attributes["val"] != constant.attributes["val"]:
                    theirs = f"{operation.outputs[0].name}_{key}"
                    constant.outputs[0].name = theirs
                    own[theirs] = constant
                    laid.append(constant)
                del operation.inputs[key].arguments[:]
                operation.inputs[key].arguments.add(name=theirs)
        laid.append(operation)
    read = {one.name for operation in laid for argument in operation.inputs.values() for one in argument.arguments}
    replaced = {name for name in found if name not in read and name not in block.outputs}
    laid = [type(one).FromString(one.SerializeToString()) for one in laid if one.outputs[0].name not in replaced]
    del block.operations[:]
    block.operations.extend(laid)
    return set(own)


def _constant(operation: Operation, key: str, found: dict[str, Operation], kind: int) -> Operation:
    """A constant of an operation, copied; kind: that of its zero point, where it has none."""
    from coremltools.proto.MIL_pb2 import Operation

    made = Operation()
    if key in operation.inputs:
        made.CopyFrom(found[operation.inputs[key].arguments[0].name])
        return made
    zero = _ZERO[kind]
    made.type = "const"
    made.outputs.add().type.CopyFrom(tensor_type(zero.dtype.name, zero.shape))
    made.attributes["val"].CopyFrom(value(zero, WeightFile()))
    label = made.attributes["name"]
    label.type.tensorType.dataType = 2
    label.immediateValue.tensor.strings.values.append(key)
    return made
