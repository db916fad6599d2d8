"""No module of the package imports itself through others, be it inside of a function, and rooms import one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import dwindle

PACKAGE = Path(dwindle.__file__).parent
ROOMS = {
    "models": {"models"},
    "export": {"models", "export"},
    "compress": {"models", "export", "compress"},
    "bench": {"models", "bench"},
}
"""The rooms that each room may import. All of them may import the base, the modules of dwindle/ that are not FACE."""
FACE = {
    "__main__",
    "attest",
    "bom",
    "card",
    "cli",
    "commands",
    "demo",
    "first_config",
    "grammar",
    "lineage",
    "live",
    "origin",
    "output",
    "schema",
    "sweep",
    "verify",
    "verify_file",
}
"""The modules of dwindle/ itself that may import every room."""
TO_FACE = {("bench.views.page", "origin")}
"""What a room may import of the face: the report prints the command that makes a checkpoint."""


def _files() -> dict[str, Path]:
    """Every module of the package by its name below `dwindle`; the package itself is ""."""
    rooms = ("", "commands/", "models/", "compress/", "export/", "bench/")
    found = {}
    for room in rooms:
        pattern = "*.py" if not room else "**/*.py"
        for path in sorted((PACKAGE / room).glob(pattern)):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import statement of a file, those in functions and those for type checkers included.

    Of a package's `__init__`, those for type checkers are left out: they declare names that are imported lazily.
    """
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (
            path.name == "__init__.py" and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            nodes += ast.iter_child_nodes(node)


def _imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, each by the most exact name that is a module."""
    for statement in _imports(path):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        else:
            assert statement.level == 0, f"{path} has a relative import"
            names = [f"{statement.module}.{alias.name}" for alias in statement.names]
        for name in names:
            package, _, inside = name.partition(".")
            if package != "dwindle":
                continue
            while inside not in known:
                inside = inside.rpartition(".")[0]
            yield inside


def test_the_package_was_found() -> None:
    known = _files()
    assert {"", "cli", "export.target", "export.coreml.read", "bench.measure"} <= known.keys()
    assert "export.side_by_side" in set(_imported(known["export.exporter"], known))
    assert "export.one_target" in set(_imported(known["export.side_by_side"], known))  # it is inside of a function


def test_there_are_no_cycles() -> None:
    known = _files()
    graph = {name: set(_imported(path, known)) for name, path in known.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules of a cycle


def test_rooms_import_one_way() -> None:
    known, wrong = _files(), []
    for name, path in known.items():
        for other in _imported(path, known):
            room, of = name.partition(".")[0], other.partition(".")[0]
            if room in ROOMS:
                fine = of in ROOMS[room] or (of not in ROOMS and (of not in FACE or (name, other) in TO_FACE))
            else:
                fine = room in FACE or (of not in ROOMS and of not in FACE)
            if not fine:
                wrong.append(f"{name} imports {other}")
    assert not wrong
