"""Filling an ONNX graph with weights: the tensors of each code as one string, and the calls that unpack it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto
from onnx.helper import make_node, make_opsetid, make_tensor
from onnx.numpy_helper import from_array

from dwindle.export.codes import fields, rice, two_of_four
from dwindle.export.codes.packing import Array, Code, Form, choose, forms
from dwindle.export.onnx.graph import drop_defaults, name_nodes, stamp
from dwindle.export.onnx.unpack import DOMAIN, HALVED, call, function
from dwindle.export.onnx.unpack_bodies import LOOKS
from dwindle.export.quantize import CODED, FEW_BITS, PALETTES, SCALES, Stored

_LOWEST = -8
"""The code of int4 that four zero bits stand for."""
_CALL, _LOOK = 180, 140
"""About how many bytes of a graph unpack one string, and how many more where its values are of palettes."""
_AT_ONCE = 1 << 21
"""Weights in one string, well within int32 positions. Of 2¹⁸ to 2²¹ it made sessions fastest: what that takes is the
memory of all that a session computes on the way, which onnxruntime keeps to its end, and time for each node."""


def fill(
    skeleton: ModelProto, weights: Mapping[str, Stored], *, pack: bool, half: bool = False
) -> tuple[ModelProto, str]:
    """A whole model, and its encoding in words: `skeleton` with the tensors it reads, packed where that takes
    fewer bytes. Without `pack`, zeros are stored like any value, and attributes stated that packing leaves out.

    weights: by the names that the skeleton uses; those it doesn't read are left out. half: whether the skeleton reads
    weights as fp16.
    """
    read = {name for node in skeleton.graph.node for name in node.input}
    read |= {output.name for output in skeleton.graph.output}
    stored = {name: tensor for name, tensor in weights.items() if name in read}
    opset = next(opset.version for opset in skeleton.opset_import if opset.domain == "")
    if pack:
        lean = ModelProto()
        lean.CopyFrom(skeleton)
        drop_defaults(lean)
        skeleton = lean

    def overhead(codes: frozenset[Code]) -> int:
        functions = {name for code in codes for name in _functions(code)}
        calls = sum(code.kind != "plain" for code in codes)
        looks = sum(code.values in PALETTES for code in codes)
        definitions: int = sum(function(name, opset).ByteSize() for name in functions)
        return _CALL * calls + _LOOK * looks + definitions

    def model(pack: bool) -> tuple[ModelProto, str]:
        plan = choose({name: forms(tensor, pack=pack, half=half) for name, tensor in stored.items()}, overhead)
        return _filled(skeleton, stored, plan, opset, pack=pack, half=half), _words(plan, stored)

    # The choice reckons with rough figures: a network of a few hundred weights may be better off without.
    return min((model(own) for own in {pack, False}), key=lambda made: made[0].ByteSize())


def _filled(
    skeleton: ModelProto,
    stored: Mapping[str, Stored],
    plan: Mapping[str, Form],
    opset: int,
    *,
    pack: bool,
    half: bool,
) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(skeleton)
    rest = list(model.graph.node)
    del model.graph.node[:]  # what unpacks a weight comes before what reads it
    scales = _scales(model.graph, stored, pack=pack)
    strings: dict[Code, list[list[str]]] = {}
    for name, form in plan.items():
        if form.code.kind == "plain":
            model.graph.initializer.append(from_array(stored[name].values, name))
            continue
        lists = strings.setdefault(form.code, [[]])
        if sum(plan[other].values.size for other in lists[-1]) + form.values.size > _AT_ONCE:
            lists.append([])
        lists[-1].append(name)
    for names in (names for lists in strings.values() for names in lists if names):
        _string(model.graph, {name: plan[name] for name in names}, {name: stored[name] for name in names}, scales)
    if half:
        for node in model.graph.node:
            node.op_type += "16" * (node.domain == DOMAIN and node.op_type in HALVED)
    called = dict.fromkeys(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    model.graph.node.extend(rest)
    if called:
        model.functions.extend(function(name, opset) for name in called)
        model.opset_import.append(make_opsetid(DOMAIN, 1))
    name_nodes(model)
    stamp(model)
    return model


def _string(
    graph: GraphProto, members: Mapping[str, Form], stored: Mapping[str, Stored], scales: Mapping[str, str]
) -> None:
    """Adds the tensors of one code to a graph: their bytes, the calls that unpack them, and each tensor's part of it.

    scales: the names of the tensors' scales in the graph, by tensor.
    """
    code, tag = next(iter(members.values())).code, next(iter(members))
    palettes = [stored[name].palette for name in members]
    flat = _unpacked(graph, code, list(members.values()), palettes, tag)
    finished = {name for name in members if stored[name].values.ndim == 1}
    parts = {name: name if name in finished else f"{name}p" for name in members}
    _split(graph, flat, list(parts.values()), [form.values.size for form in members.values()])
    for name in (name for name in members if name not in finished):
        _part(graph, parts[name], name, members[name], stored[name], scales.get(name))


def _unpacked(
    graph: GraphProto, code: Code, members: Sequence[Form], palettes: Sequence[Array | None], tag: str
) -> str:
    """The name of all values of these tensors in a row: fp32, or integer codes."""
    blocks = np.concatenate([form.values for form in members])
    sizes = [code.block * len(form.values if code.kind == "dense" else form.positions) for form in members]
    looked = list(zip(sizes, palettes, strict=True))
    flat, values, positions = f"{tag}f", f"{tag}v", f"{tag}o"
    if code.kind == "dense":
        _values(graph, code, blocks.reshape(-1), looked, values)
        if code.values != "fp16":
            return values
        graph.node.append(call("Float", [values], flat))
        return flat
    if code.kind == "pairs":
        codes, places = two_of_four.encode(blocks.reshape(-1, 4) != 0)
        graph.initializer.append(from_array(codes.reshape(-1, 1), f"{tag}c"))
        graph.node.append(call("Pairs", [f"{tag}c"], positions, g=[3 * codes.size], n=[places.size]))
    else:
        starts = accumulate((len(form.values) for form in members[:-1]), initial=0)
        places = np.concatenate([form.positions + start for form, start in zip(members, starts, strict=True)])
        if not places.size:
            places = np.zeros(1, np.intp)  # a tensor without elements is legal on paper only: one zero survives
        unary, low = rice.encode(places, code.k)
        graph.initializer.append(from_array(unary, f"{tag}u"))
        first, step = (1 << code.k) - 1, 1 << code.k
        numbers = [first, first + 8 * step * unary.size, step]
        graph.node.append(call("Ones", [f"{tag}u"], positions, r=numbers, k=[places.size + 1]))
        if code.k:
            graph.initializer.append(from_array(low, f"{tag}l"))
            constants = {"b": [code.k * places.size], "s": [code.k, -1], "r": [1 << bit for bit in range(code.k)]}
            graph.node.append(call("Gaps", [positions, f"{tag}l"], f"{tag}g", **constants))
            positions = f"{tag}g"
    shape = list(blocks.shape) if code.block > 1 else [blocks.size]
    _values(graph, code, blocks[places] if code.block > 1 else blocks[places, 0], looked, values)
    graph.node.append(call(_put(code), [positions, values], flat, n=shape))
    return flat


def _values(
    graph: GraphProto, code: Code, array: Array, palettes: Sequence[tuple[int, Array | None]], name: str
) -> None:
    """Adds packed values to a graph, so that they are read under `name`; those of palettes as fp32.

    palettes: for each tensor that the values belong to, how many of them there are and its palette.
    """
    if code.values not in FEW_BITS:
        graph.initializer.append(from_array(array, name))
        return
    flat, count = f"{name}5" if code.block > 1 else name, [array.size]
    if code.values in PALETTES:
        absent = int(code.bits < 4 and code.bits == int(code.values[-1]))  # zero, which the mask alone stands for
        own = [(size, palette[absent:]) for size, palette in palettes if palette is not None]
        used = [(size, palette) for size, palette in own if size] or own[:1]
        words = fields.encode(np.maximum(array.reshape(-1) - absent, 0), code.bits)
        looked = np.concatenate([palette for _, palette in used])
        graph.initializer.extend([from_array(words, f"{name}4"), from_array(looked, f"{name}7")])
        starts = list(accumulate((size for size, _ in used[:-1]), initial=0))
        behind = [0, *(len(palette) for _, palette in used[:-1])]
        graph.node.append(call(LOOKS[code.bits], [f"{name}4", f"{name}7"], flat, s=starts, u=behind, n=count))
    else:
        graph.initializer.append(from_array(fields.encode(array.reshape(-1) - np.int8(_LOWEST), 4), f"{name}4"))
        graph.node.append(call("Nibbles", [f"{name}4"], flat, n=count, d=[_LOWEST]))
    if code.block > 1:
        graph.node.append(call("View", [flat], name, s=list(array.shape)))


def _part(graph: GraphProto, part: str, name: str, form: Form, stored: Stored, scale: str | None) -> None:
    """The steps from a tensor's part of a string to the tensor. scale: the name of its scales."""
    sizes = list(stored.values.shape)
    steps: list[tuple[str, tuple[str, ...], dict[str, Any]]] = []
    if form.turn is not None:
        steps.append(("Turn", (), {"t": list(form.turn), "s": sizes}))
    if stored.scale is not None and stored.axis is None:
        assert scale is not None
        blocks = [stored.scale.size, sizes[1] // stored.scale.shape[1], *sizes[2:]]
        steps.append(("Scaled", (scale,), {"s": blocks}))
        if stored.scale.shape[1] > 1:
            steps.append(("View", (), {"s": sizes}))
    for index, (step, others, attributes) in enumerate(steps or [("View", (), {"s": sizes})], start=1):
        made = name if index >= len(steps) else f"{name}{'ab'[index - 1]}"
        graph.node.append(call(step, [part, *others], made, **attributes))
        part = made


def _scales(graph: GraphProto, stored: Mapping[str, Stored], *, pack: bool) -> dict[str, str]:
    """Adds scales to a graph, those of tensors of equal rank as one string of bytes; their names, by tensor.

    Without `pack`, scales that a graph reads apart are stored as such, as other tools expect.
    """
    names = {name: f"{name}q" for name, tensor in stored.items() if tensor.scale is not None}
    if not pack:
        apart = {name: tensor.scale for name, tensor in stored.items() if tensor.axis is not None}
        graph.initializer.extend(
            from_array(SCALES[scale].astype(np.float32), names[name]) for name, scale in apart.items()
        )
        stored = {name: tensor for name, tensor in stored.items() if name not in apart}
    codes = {
        name: tensor.scale.reshape(-1, *[1] * (tensor.scale.ndim - 1))
        for name, tensor in stored.items()
        if tensor.scale is not None
    }
    if not codes:
        return names
    used = np.unique(np.concatenate([code.reshape(-1) for code in codes.values()]))
    graph.initializer.append(from_array(SCALES[used], "_t"))
    for rank in sorted({code.ndim for code in codes.values()}):
        own = {name: np.searchsorted(used, code).astype(np.uint8) for name, code in codes.items() if code.ndim == rank}
        graph.initializer.append(from_array(np.concatenate(list(own.values())), f"_c{rank}"))
        graph.node.append(call("Scales", [f"_c{rank}", "_t"], f"_s{rank}"))
        _split(graph, f"_s{rank}", [names[name] for name in own], [len(code) for code in own.values()])
    return names


def _split(graph: GraphProto, whole: str, parts: Sequence[str], sizes: Sequence[int]) -> None:
    """Cuts along dimension 0; what has only one part takes its name."""
    if len(parts) == 1:
        if graph.node and graph.node[-1].output[0] == whole:
            graph.node[-1].output[0] = parts[0]
        else:
            graph.initializer[-1].name = parts[0]
        return
    graph.initializer.append(make_tensor(f"{whole}z", TensorProto.INT64, [len(sizes)], sizes))  # a byte or two each
    graph.node.append(make_node("Split", [whole, f"{whole}z"], list(parts)))


def _put(code: Code) -> str:
    if code.values in CODED and code.values not in PALETTES:
        return "PutCodes" if code.block == 1 else "PutCodeBlocks"
    return "Put" if code.block == 1 else "PutBlocks"


def _functions(code: Code) -> tuple[str, ...]:
    """All functions that unpack tensors of a code."""
    unpack: tuple[str, ...] = ()
    part: tuple[str, ...] = ("Scaled",) if code.values in CODED else ("View",)
    if code.values in PALETTES:
        unpack, part = (LOOKS[code.bits],), ("View", "Scaled")
    elif code.values in FEW_BITS:
        unpack = ("Nibbles",)
    turn = ("Turn",) if code.block > 1 or code.kind == "pairs" else ()
    return {
        "plain": (),
        "dense": (*unpack, *part) if code.values in CODED else ("Float", *part),
        "rice": ("Ones", *(("Gaps",) if code.k else ()), *unpack, _put(code), *part, *turn),
        "pairs": ("Pairs", *unpack, _put(code), *part, *turn),
    }[code.kind]


def _words(plan: Mapping[str, Form], stored: Mapping[str, Stored]) -> str:
    """How most weights are encoded, as in `Golomb-Rice + int8 survivors`."""
    largest = max(plan, key=lambda name: stored[name].values.size, default=None)
    values = plan[largest].code.values if largest else "fp32"
    codes = {form.code for form in plan.values()}
    masks = [
        words
        for words, used in (
            ("Golomb-Rice", any(code.kind == "rice" and code.k for code in codes)),
            ("bitmask", any(code.kind == "rice" and not code.k for code in codes)),
            ("2:4", any(code.kind == "pairs" for code in codes)),
        )
        if used
    ]
    return f"{' and '.join(masks)} + {values} survivors" if masks else f"dense {values}"
