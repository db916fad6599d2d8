"""Imports within bench run one way, those in functions and for annotations included."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import dwindle.bench

ROOT = Path(dwindle.bench.__file__).parent
PACKAGE = "dwindle.bench"


def modules() -> dict[str, Path]:
    """Every module by its name, without packages: an `__init__` only lists what others may import."""
    return {
        ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]): path
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }


def imported(source: str, known: set[str]) -> set[str]:
    """The modules among `known` that a source file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found & known


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
from __future__ import annotations
from dwindle.bench import wire
if TYPE_CHECKING:
    from dwindle.bench.rows import blank_rows
def late():
    import dwindle.bench.build
"""
    assert imported(source, set(modules())) == {f"{PACKAGE}.{name}" for name in ("wire", "rows", "build")}


def test_nothing_imports_in_a_circle() -> None:
    paths = modules()
    assert len(paths) > 30
    graph = {name: imported(path.read_text(encoding="utf-8"), set(paths)) for name, path in paths.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
