"""A LiteRT file in int8, weights and activations, by the AI Edge Quantizer.

Inputs and outputs stay float: the file rounds and widens them itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dwindle.export.blame import refusal
from dwindle.export.litert import file
from dwindle.export.quantize import LARGEST
from dwindle.quiet import silent

if TYPE_CHECKING:
    from torch import Tensor

OWN = "_"
"""How the names of the network's own tensors begin (`fold.short_names`)."""
_AGAIN = b"#"
"""What stands behind a name that another tensor has too, before what tells the two apart."""
_FLOAT32, _INT8 = 0, 9
"""The schema's TensorType."""
_MOVING = ("quantize", "dequantize", "reshape", "transpose", "squeeze", "expand_dims", "slice", "strided_slice", "pad")
"""The kinds of operators that compute nothing of values."""


def quantized(
    content: bytes,
    inputs: Sequence[str],
    samples: tuple[Tensor, ...],
    scales: Mapping[str, np.ndarray],
    network: str,
) -> bytes:
    """A float file in int8, its activations' ranges those that the samples take.

    inputs: the names of the file's inputs, in order. samples: batched, one tensor for each of them. scales: those of
    each weight's rows that is to be rounded, by the name that `file.put` gives its tensor; operators that read others
    stay float. network: its name, for the message. Raises UsageError where the file cannot be quantised.
    """
    model = file.parse(content)
    _name_tensors(model)
    ranges, kept = _ranges(model, scales)
    try:
        with silent():
            from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe, recipe_manager
            from ai_edge_quantizer.algorithm_manager import AlgorithmName
            from ai_edge_quantizer.utils.qsv_utils import min_max_update

            names = qtyping.TFLOperationName
            outside = [(".*", names.INPUT), (".*", names.OUTPUT)]

            def prepared(floats: bytes) -> Any:
                made = quantizer.Quantizer(floats, recipe.static_wi8_ai8())
                for scope, kind in [*outside, *((scope, names.ALL_SUPPORTED) for scope in kept)]:
                    made.update_quantization_recipe(scope, kind, algorithm_key=AlgorithmName.NO_QUANTIZE)
                return made

            floats = file.serialize(model)
            made = prepared(floats)
            (signature,) = model.signatureDefs
            each = zip(*(tensor.split(1) for tensor in samples), strict=True)
            data = [dict(zip(inputs, (one.numpy() for one in sample), strict=True)) for sample in each]
            manager = recipe_manager.RecipeManager()
            manager.load_quantization_recipe(made.get_quantization_recipe())
            # By itself it takes a moving average of samples' ranges, which clips what most of them don't reach.
            observer = calibrator.Calibrator(
                floats,
                num_threads=1,
                mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
                qsv_update_func=min_max_update,
            )
            observer.calibrate({signature.signatureKey.decode(): data}, manager)
            found = observer.get_model_qsvs()
            if _pad_with_least(model, found):
                made = prepared(file.serialize(model))
            found = {**found, **ranges}
            rounded = made.quantize(found, enable_progress_bar=False, enable_progress_report=False).quantized_model
    except Exception as error:
        raise refusal(error, network, "quantised for LiteRT") from error
    return _without_names(rounded)


def in_float(content: bytes, layers: Collection[str]) -> tuple[str, ...]:
    """The kinds of a file's operators that compute in float, as they have no int8 form, such as `sin`.

    layers: the short names of tensors whose operators are not meant, as they could be in int8.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    kinds = {code: name.lower() for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    model = file.parse(content)
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            kind = kinds[_code(model, operator)]
            read = [graph.tensors[index] for index in operator.inputs if index >= 0]
            made = [graph.tensors[index] for index in operator.outputs]
            meant = _own(read).isdisjoint(layers) and kind not in _MOVING
            if meant and any(one.type == _FLOAT32 for one in made) and any(one.type == _FLOAT32 for one in read):
                found.append(kind)
    return tuple(dict.fromkeys(found))


def _own(read: Sequence[Any]) -> set[str]:
    """The short names of the network's own tensors among some of a file's."""
    labels = [(tensor.name or b"").decode() for tensor in read]
    return {label.partition(".")[0] for label in labels if label.startswith(OWN)}


def _ranges(model: Any, scales: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """The range of each weight that is rounded, and the scopes, in the quantizer's words, of operators that stay float.

    127 times a scale of `quantize.SCALES` is exact, and so the quantizer finds that very scale again.
    """
    ranges, kept = {}, []
    for graph in model.subgraphs:
        names = [tensor.name.decode() for tensor in graph.tensors]
        for operator in graph.operators:
            axis = _axis(model, operator)
            for index in operator.inputs:
                shape = shape_of(graph.tensors[index]) if index >= 0 else []
                if len(shape) < 2 or not names[index].startswith(OWN):
                    continue
                scale = scales.get(names[index].partition(".")[0])
                if axis is None or scale is None or scale.size != shape[axis]:
                    kept.append("^" + "".join(f"{re.escape(names[one])};" for one in operator.outputs))
                    continue
                bound = LARGEST * scale.reshape([-1 if one == axis else 1 for one in range(len(shape))])
                ranges[names[index]] = {"min": -bound, "max": bound}
    return ranges, kept


def _axis(model: Any, operator: Any) -> int | None:
    """The dimension of an operator's weight along which the quantizer has scales; None where it has no weight."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    axes = dict.fromkeys((BuiltinOperator.CONV_2D, BuiltinOperator.FULLY_CONNECTED, BuiltinOperator.TRANSPOSE_CONV), 0)
    axes[BuiltinOperator.DEPTHWISE_CONV_2D] = 3
    return axes.get(_code(model, operator))


def _pad_with_least(model: Any, ranges: dict[str, Any]) -> bool:
    """Has values that are padded by -inf, as before a max-pooling, padded by their least one, in place, in the file and
    in the ranges: of infinity no scale follows. Returns whether there are any."""
    from ai_edge_litert.schema_py_generated import BufferT

    padding = [
        (graph, one) for graph in model.subgraphs for one in graph.operators if _pads_by_infinity(model, graph, one)
    ]
    for graph, operator in padding:
        read, _, constant = (graph.tensors[index] for index in operator.inputs)
        made, range_ = graph.tensors[operator.outputs[0]], ranges[read.name.decode()]
        own, buffer = copy.copy(constant), BufferT()
        own.name, own.buffer = made.name + b"p", len(model.buffers)
        buffer.data = np.frombuffer(np.float32(np.min(range_["min"])).tobytes(), np.uint8)
        model.buffers.append(buffer)
        operator.inputs = np.array([*operator.inputs[:2], len(graph.tensors)], np.int32)
        graph.tensors.append(own)
        ranges[made.name.decode()] = dict(range_)
        ranges[own.name.decode()] = {"min": range_["min"], "max": range_["min"]}
    return bool(padding)


def _pads_by_infinity(model: Any, graph: Any, operator: Any) -> bool:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    if _code(model, operator) != BuiltinOperator.PADV2:
        return False
    constant = graph.tensors[operator.inputs[2]]
    data = model.buffers[constant.buffer].data
    return data is not None and constant.type == _FLOAT32 and bool(np.isneginf(np.frombuffer(data, np.float32)).all())


def _code(model: Any, operator: Any) -> int:
    """What an operator is, by the schema's BuiltinOperator."""
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _name_tensors(model: Any) -> None:
    """Gives every tensor a name of its own, in place: the quantizer finds them by it."""
    known: set[bytes] = set()
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name or f"t{number}.{index}".encode()
            if tensor.name in known:  # as an LSTM's bias, which the first of its steps reads in another shape
                tensor.name += _AGAIN + f"{number}.{index}".encode()
            known.add(tensor.name)


def shape_of(tensor: Any) -> list[int]:
    """The shape of a tensor of a file."""
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def _without_names(content: Any) -> bytes:
    """The file without the names that `_name_tensors` gave, which no runtime reads, and without the data of tensors
    that no operator reads: the quantizer leaves them floats, and the one byte of their codes."""
    model = file.parse(bytes(content))
    for graph in model.subgraphs:
        _read_codes(model, graph)
        outside = {*graph.inputs, *graph.outputs}
        needed = outside.union(*(operator.inputs for operator in graph.operators))
        for index, tensor in enumerate(graph.tensors):
            if index not in needed:
                tensor.buffer = 0
            if index not in outside:
                own = (tensor.name or b"").startswith(OWN.encode())
                tensor.name = tensor.name.partition(_AGAIN)[0] if own else None
    model.metadata = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    return file.serialize(model)


def _read_codes(model: Any, graph: Any) -> None:
    """Has operators in int8 read the codes of a value that is an output too, in place: of the network's outputs, which
    stay float, the quantizer has layers read the decoded one."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    decoding = [one for one in graph.operators if _code(model, one) == BuiltinOperator.DEQUANTIZE]
    codes = {one.outputs[0]: one.inputs[0] for one in decoding if one.outputs[0] in graph.outputs}
    for one in graph.operators:
        rounds = _code(model, one) == BuiltinOperator.QUANTIZE
        if not rounds and all(graph.tensors[index].type == _INT8 for index in one.outputs):
            one.inputs = np.array([codes.get(index, index) for index in one.inputs], np.int32)


def decoded(model: Any) -> dict[str, np.ndarray]:
    """Every int8 weight of a file by its name, as its runtime computes with it."""
    found = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        how, label = tensor.quantization, (tensor.name or b"").decode()
        data = model.buffers[tensor.buffer].data
        if data is None or how is None or how.scale is None or tensor.type != _INT8 or not label.startswith(OWN):
            continue
        codes = np.frombuffer(bytes(data), np.int8).reshape(shape_of(tensor))
        if np.any(how.zeroPoint):
            raise ValueError(f"the weight {label} has a zero point, and would not keep its zeros")
        scale = np.asarray(how.scale, np.float32)
        if scale.size > 1:
            scale = scale.reshape([-1 if axis == how.quantizedDimension else 1 for axis in range(codes.ndim)])
        found[label] = codes.astype(np.float32) * scale
    return found
