"""Where in a model something failed: the operator, the module that calls it and the line of the model's code."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError, one_line

if TYPE_CHECKING:
    from torch.fx import Node

_ROOM = str(Path(__file__).parent)
_LIBRARY = "site-packages"
_EDGE = re.compile(r"<EdgeOpOverload: ([\w.]+)>")
_CORE_ML = "coremltools.converters.mil.frontend.torch.internal_graph"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def where(error: BaseException) -> str:
    """Where in the model an exception of a converter began, from a space on; empty where nothing tells.

        >>> where(error)
        ' at aten.linalg_eigvals.default in blocks.0.attention (model.py, line 31)'

    A converter goes through a traced graph: the innermost of its frames that holds a node was at work on that one.
    Without a node, as while a model is traced, the innermost line outside of libraries is the model's.
    """
    if at := operator(error):
        return f" at {at}"
    for cause in _causes(error):
        frames = traceback.extract_tb(cause.__traceback__)
        own = [one for one in frames if _LIBRARY not in one.filename and not one.filename.startswith((_ROOM, "<"))]
        if own:
            return f" at {Path(own[-1].filename).name}, line {own[-1].lineno}"
    return ""


def refusal(error: BaseException, network: str, doing: str) -> UsageError:
    """The error for a network that a converter refused with an exception. doing: such as `written as ONNX`."""
    return UsageError(
        f"{network} cannot be {doing}{where(error)}: {one_line(error, root_cause=True)}",
        code="not-convertible",
        name=network,
    )


def operator(error: BaseException) -> str | None:
    """The call of a traced graph that a converter was at work on, as `described`; None where nothing tells."""
    for cause in _causes(error):
        for frame, _ in reversed(list(traceback.walk_tb(cause.__traceback__))):
            if at := _at_work_on(frame.f_locals.get("node")):
                return at
    return None


def described(node: Node) -> str:
    """A call of a traced graph: its operator, the path of the module that made it and the line of the model's code."""
    return f"{called(node)}{_place(node.meta)}"


def called(node: Node) -> str:
    """The operator of a call, such as `aten.topk.default`; of one of several results, the operator that made them."""
    if node.target is getitem:
        node = node.all_input_nodes[0]
    # ExecuTorch's own operators describe themselves: `<EdgeOpOverload: aten.topk.default>: schema = …`
    own = _EDGE.match(str(node.target))
    return own[1] if own else str(node.target)


def _at_work_on(node: Any) -> str | None:
    """What a converter's local variable `node` says; None where it is no call of a traced graph."""
    from torch import fx

    if isinstance(node, fx.Node):
        return described(node) if node.op == "call_function" else None
    if type(node).__module__ == _CORE_ML:  # its own node, with the metadata of PyTorch's
        return f"{node.kind}{_place(node.meta or {})}"
    return None


def _place(meta: Mapping[str, Any]) -> str:
    stack = meta.get("nn_module_stack") or {}
    path = next((path for path, _ in reversed(list(stack.values())) if path), "")
    lines = [(found["file"], found["line"]) for found in _FRAME.finditer(meta.get("stack_trace") or "")]
    own = [one for one in lines if _LIBRARY not in one[0]] or lines
    line = f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
    return f"{f' in {path}' if path else ''}{line}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, the first one first."""
    if error is not None:
        yield from _causes(error.__cause__)
        yield error
