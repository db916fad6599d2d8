"""Where in a model something failed: the operator, the module that calls it and the line of the model's code."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from torch.fx import Node

_ROOM = str(Path(__file__).parent)
_LIBRARY = "site-packages"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def where(error: BaseException) -> str:
    """Where in the model an exception of a converter began, from a space on; empty where nothing tells.

        >>> where(error)
        ' at aten.linalg_eigvals.default in blocks.0.attention (model.py, line 31)'

    A converter goes through a traced graph: the innermost of its frames that holds a node was at work on that one.
    Without a node, as while a model is traced, the innermost line outside of libraries is the model's.
    """
    for cause in _causes(error):
        for frame, _ in reversed(list(traceback.walk_tb(cause.__traceback__))):
            node = frame.f_locals.get("node")
            if node is not None and _is_call(node):
                return f" at {described(node)}"
    for cause in _causes(error):
        frames = traceback.extract_tb(cause.__traceback__)
        own = [one for one in frames if _LIBRARY not in one.filename and not one.filename.startswith((_ROOM, "<"))]
        if own:
            return f" at {Path(own[-1].filename).name}, line {own[-1].lineno}"
    return ""


def described(node: Node) -> str:
    """A call of a traced graph: its operator, the path of the module that made it and the line of the model's code."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((path for path, _ in reversed(list(stack.values())) if path), "")
    lines = [(found["file"], found["line"]) for found in _FRAME.finditer(node.meta.get("stack_trace") or "")]
    own = [one for one in lines if _LIBRARY not in one[0]] or lines
    line = f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
    return f"{node.target}{f' in {path}' if path else ''}{line}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from, the first one first."""
    if error is not None:
        yield from _causes(error.__cause__)
        yield error


def _is_call(node: object) -> TypeGuard[Node]:
    from torch import fx

    return isinstance(node, fx.Node) and node.op == "call_function"
