"""Text files are UTF-8 wherever the program runs: every call that opens one names its encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import dwindle

PACKAGE = Path(dwindle.__file__).parent
OPENERS = {"open", "read_text", "write_text", "fdopen", "TemporaryFile", "NamedTemporaryFile", "TextIOWrapper"}
BINARY = {"TemporaryFile": True, "NamedTemporaryFile": True}
"""Openers whose mode is binary unless they are told another."""
OTHERS = {"Image", "os", "tarfile", "zipfile", "webbrowser"}
"""What has an `open` that opens no text file."""


def unnamed(source: str) -> Iterator[int]:
    """The lines on which a text file is opened in whatever encoding the locale has."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        if name not in OPENERS or (owner in OTHERS and name == "open"):
            continue
        if any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        literals = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        modes = [one.value for one in literals if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        binary = any("b" in mode for mode in modes) if modes or name not in BINARY else True
        if name in ("read_text", "write_text") or not binary:
            yield node.lineno


def test_every_text_file_is_opened_as_utf_8() -> None:
    rooms = [room for room in PACKAGE.iterdir() if room.is_dir()]  # which may be links
    files = [*PACKAGE.glob("*.py"), *(path for room in rooms for path in room.resolve().rglob("*.py"))]
    assert len(files) > 100
    assert [f"{path}:{line}" for path in files for line in unnamed(path.read_text("utf-8"))] == []


def test_a_file_opened_in_the_locales_encoding_is_seen() -> None:
    source = (
        "path.read_text()\nopen('a')\nopen('a', 'rb')\npath.open('w')\npath.read_text(encoding='utf-8')\nos.open(a, b)"
    )
    assert list(unnamed(source)) == [1, 2, 4]
