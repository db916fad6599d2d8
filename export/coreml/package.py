"""Writing a Core ML package: each constant of a program is encoded in the form that takes the fewest bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwindle.export.coreml.blob import INLINE, VECTOR_INLINE, Codes, WeightFile, tensor_type, value
from dwindle.export.coreml.forms import PLAIN, Step, forms
from dwindle.export.coreml.read import MODEL, WEIGHTS, main_block, operations
from dwindle.export.quantize import Stored

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import Block, Operation
    from coremltools.proto.Model_pb2 import Model

_STRING = 2
_FROM_IOS_18 = 9
"""specificationVersion from which a program may hold sparse codes, and constants are inputs of what decodes them."""


def package(
    model: Model,
    weights: Mapping[str, NDArray[Any]],
    codes: Mapping[str, Stored],
    *,
    pack: bool,
    computed: bool = False,
) -> tuple[dict[str, bytes], str]:
    """The files of an .mlpackage, by their paths in it, and how most of its weights are encoded, in words.

    model: the program. weights: the constants to write into it, by the name of the output that each becomes. codes: the
    integer codes of those that have any. Without `pack`, no form packs zeros. computed: codes are computed with.
    """
    filled = type(model)()
    filled.CopyFrom(model)
    file = WeightFile()
    modern = model.specificationVersion >= _FROM_IOS_18
    used: Counter[str] = Counter()
    dense = {PLAIN.format(kind) for kind in ("fp16", "fp32")}
    for block in _blocks(main_block(filled)):
        laid: list[Operation] = []
        for operation in block.operations:
            name = operation.outputs[0].name
            if name in weights:
                found = forms(name, weights[name], codes.get(name), modern, pack=pack, computed=computed)
                words = _smallest(found, modern)
                laid += [_operation(step, modern, file) for step in found[words]]
                used[words] += int(np.count_nonzero(weights[name]))
            else:
                laid.append(operation)
        laid = [type(operation).FromString(operation.SerializeToString()) for operation in laid]
        del block.operations[:]
        block.operations.extend(laid)
    files = {
        "Manifest.json": json.dumps(_manifest()).encode(),
        MODEL: filled.SerializeToString(deterministic=True),
        WEIGHTS: file.content(),
    }
    packed = [words for words, _ in used.most_common() if words not in dense]
    return files, " and ".join(packed) or next((words for words, _ in used.most_common()), PLAIN.format("fp16"))


def _smallest(found: dict[str, list[Step]], modern: bool) -> str:
    def cost(words: str) -> int:
        scratch = WeightFile()
        in_program: int = sum(_operation(step, modern, scratch).ByteSize() for step in found[words])
        return in_program + len(scratch.content())

    return min(found, key=cost)


def _operation(step: Step, modern: bool, file: WeightFile) -> Operation:
    from coremltools.proto.MIL_pb2 import Operation

    operation = Operation(type=step.kind)
    for name, array in step.outputs.items():
        operation.outputs.add(name=name).type.CopyFrom(tensor_type(array.dtype.name, array.shape))
    for key, part in step.parts.items():
        if isinstance(part, str):
            operation.inputs[key].arguments.add(name=part)
        elif modern and step.kind != "const":
            operation.inputs[key].arguments.add().value.CopyFrom(value(part, file))
        else:
            vector = step.kind == "const" and not isinstance(part, Codes) and part.ndim == 1
            operation.attributes[key].CopyFrom(value(part, file, VECTOR_INLINE if vector else INLINE))
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
