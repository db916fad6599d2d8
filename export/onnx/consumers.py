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
OPSETS = {18: (1, 14), 19: (1, 15), 20: (1, 17)}
"""The first version of those that has an operator set, by onnxruntime's own table (docs/Versioning.md). A version that
has one also knows the IR version that is stamped with it."""
NEWEST = max(OPSETS)
OPENCV = "4.10"
_OPENCV_LACKS = frozenset[str]()
"""Operators that OpenCV's importer of that version refuses or computes otherwise: studies/operators/consumers.md."""
_CHANGED = ("GridSample", "DFT", "IsInf", "ReduceMax", "ReduceMin")
"""Operators that an older set has too, with other attributes, inputs or types."""
_NEWER = {
    ("Pad", "mode"): b"wrap",
    ("Resize", "coordinate_transformation_mode"): b"half_pixel_symmetric",
    ("AveragePool", "ceil_mode"): 1,
}
"""Values of attributes that an older set lacks, or that it is computed otherwise with."""


def newest_opset(name: str, version: tuple[int, int]) -> int:
    """The newest operator set of OPSETS that a version of a runtime has.

    Raises UsageError for a version older than OLDEST.

        >>> newest_opset("onnxruntime", (1, 16))
        19
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


def require(model: ModelProto, opset: int, name: str) -> None:
    """Raises UsageError naming the operators because of which a model can't be in that operator set.

    name: the runtime and the version that has no newer set, for the message.
    """
    (stated,) = (entry.version for entry in model.opset_import if not entry.domain)
    if stated > opset:
        needing = _needing(model, opset, stated) or [f"the operator set {stated}"]
        raise UsageError(
            f"{name} can't load this network, because it has {', '.join(needing)} of a newer operator set: give a "
            f"`min_runtime` of {_written(OPSETS[stated])}, or write the network without it",
            code="too-old",
            option="min_runtime",
            name=needing[0],
        )


def consumers(model: ModelProto) -> tuple[Consumer, ...]:
    """Which programs load a file that `fill` made, and why the others don't."""
    (stated,) = (opset.version for opset in model.opset_import if not opset.domain)
    needing = _needing(model, min(OPSETS), stated)
    why = f"it has {', '.join(needing)} of operator set {stated}" if needing else None
    found = [Consumer(name, _written(max(OPSETS[stated], oldest)), why) for name, oldest in OLDEST.items()]
    kinds = dict.fromkeys(node.op_type for node in _nodes(model) if node.op_type in _OPENCV_LACKS)
    reason: str | None
    if model.functions:
        reason = "it unpacks its weights by functions of its own, which `packing` none does without"
    else:
        reason = f"it does not compute {', '.join(kinds)} as this file needs it" if kinds else None
    return (*found, Consumer("OpenCV", None if reason else OPENCV, reason))


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
