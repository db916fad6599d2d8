"""Which programs load an ONNX file, from which version on, and what keeps the others from it.

The one table of that: `min_runtime` names a program and a version in it, a file is written for that one, and the
manifest says of each program whether it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.onnx.nodes import graphs
from dwindle.manifest import Consumer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OLDEST = {"onnxruntime": (1, 15), "onnxruntime-web": (1, 17)}
"""What `min_runtime` may name, and the oldest version of each that files were run in (studies/operators)."""
OPSETS = {18: (1, 14), 20: (1, 17)}
"""The first version of those that has an operator set, by onnxruntime's own table (docs/Versioning.md). A version that
has one also knows the IR version that is stamped with it. Of 19, which 1.15 has, it lacks kernels."""
NEWEST = max(OPSETS)
OPENCV = "4.10"
_OPENCV_COMPUTES = frozenset(
    {
        *("Conv", "Relu", "PRelu", "Add", "Gemm", "Reshape", "Flatten", "GlobalAveragePool", "ReduceMean"),
        *("BatchNormalization", "LayerNormalization", "InstanceNormalization"),
    }
)
"""The operators that OpenCV of that version was seen to compute rightly in plain files (studies/operators/consumers.md
and the tests); it refuses many others, depending on their shapes."""
_RIGHT_SINCE = {("AveragePool", "ceil_mode"): (1, 30)}
"""The oldest version of a runtime that was seen to compute right with an attribute that older ones get wrong."""
_CHANGED = ("GridSample", "DFT", "IsInf", "ReduceMax", "ReduceMin")
"""Operators that an older set has too, with other attributes, inputs or types."""
_NEWER = {
    ("Pad", "mode"): b"wrap",
    ("Resize", "coordinate_transformation_mode"): b"half_pixel_symmetric",
}
"""Values of attributes that an older set lacks, or that it is computed otherwise with."""


def newest_opset(name: str, version: tuple[int, int]) -> int:
    """The newest operator set of OPSETS that a version of a runtime has.

    Raises UsageError for a version older than OLDEST.

        >>> newest_opset("onnxruntime", (1, 16))
        18
    """
    if version < OLDEST[name]:
        raise UsageError(
            f"{name} {_written(version)} is older than any that files are known to load in: give `min_runtime` "
            f"{name}=={_written(OLDEST[name])} or later",
            code="too-old",
            option="min_runtime",
            name=name,
        )
    return max(opset for opset, first in OPSETS.items() if version >= first)


def lower(model: ModelProto) -> None:
    """States in place the lowest operator set, of those in OPSETS, in which every node means what it does now."""
    (stated,) = (opset for opset in model.opset_import if not opset.domain)
    for opset in sorted(OPSETS):
        if opset < stated.version and not _needing(model, opset, stated.version):
            stated.version = opset
            return


def require(model: ModelProto, name: str, version: tuple[int, int]) -> None:
    """Raises UsageError naming the operators because of which a version of a runtime does not load a model, or computes
    it wrongly."""
    oldest, needing = _oldest(model)
    if version < oldest:
        raise UsageError(
            f"{name} {_written(version)} does not compute this network, because of {', '.join(needing)}: give a "
            f"`min_runtime` of {_written(oldest)}, or write the network without",
            code="too-old",
            option="min_runtime",
            name=needing[0],
        )


def consumers(model: ModelProto) -> tuple[Consumer, ...]:
    """Which programs load a file that `fill` made, and why the others don't."""
    first, needing = _oldest(model)
    why = f"because of {', '.join(needing)}" if needing else None
    found = [Consumer(name, _written(max(first, oldest)), why) for name, oldest in OLDEST.items()]
    kinds = dict.fromkeys(node.op_type for node in _nodes(model) if node.op_type not in _OPENCV_COMPUTES)
    reason: str | None
    if model.functions:
        reason = "it unpacks its weights by functions of its own, which `packing` none does without"
    else:
        reason = f"which is not known to compute {', '.join(kinds)}" if kinds else None
    return (*found, Consumer("OpenCV", None if reason else OPENCV, reason))


def _oldest(model: ModelProto) -> tuple[tuple[int, int], list[str]]:
    """The oldest version of a runtime that computes a model, and what of it keeps those before from it."""
    from onnx.helper import get_attribute_value

    (stated,) = (entry.version for entry in model.opset_import if not entry.domain)
    since = dict.fromkeys(_needing(model, min(OPSETS), stated), OPSETS[stated])
    for node in _nodes(model):
        for attribute in node.attribute:
            right = _RIGHT_SINCE.get((node.op_type, attribute.name))
            if right and get_attribute_value(attribute):
                since[f"{node.op_type} with {attribute.name}"] = right
    oldest = max([OPSETS[stated], *since.values()])
    return oldest, [what for what, version in since.items() if version == oldest]


def _needing(model: ModelProto, old: int, new: int) -> list[str]:
    """The kinds of nodes that mean something else, or nothing, in the operator set `old`, and not in `new`."""
    return list(dict.fromkeys(node.op_type for node in _nodes(model) if not _same(node, old, new)))


def _same(node: NodeProto, old: int, new: int) -> bool:
    import onnx
    from onnx.helper import get_attribute_value

    if node.domain:
        return True  # a function of the file's own, in operators of any of these sets
    if not onnx.defs.has(node.op_type, old, ""):
        return False
    before, after = (onnx.defs.get_schema(node.op_type, opset, "") for opset in (old, new))
    if before.since_version == after.since_version:
        return True
    stated = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    newer = any(stated.get(name) == value for (kind, name), value in _NEWER.items() if kind == node.op_type)
    return node.op_type not in _CHANGED and not newer and stated.keys() <= before.attributes.keys()


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    return (node for graph in graphs(model.graph) for node in graph.node)


def _written(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
