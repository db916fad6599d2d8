"""An exception that nobody foresaw is a sentence, exit code 1, and a file with the trace."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from dwindle import cli
from dwindle.crash import sentence


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("DWINDLE_DEBUG", raising=False)
    return tmp_path


def failing(error: BaseException) -> object:
    def command(_: object) -> int:
        raise error

    return command


def test_the_trace_is_in_the_file_that_the_sentence_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.RUN, "show", failing(ZeroDivisionError("division by zero\nmore")))  # type: ignore[arg-type]
    assert cli.main(["show", "net.dwindle"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    found = re.search(r"ZeroDivisionError: division by zero\).* in (.*\.txt)$", line)
    assert found
    assert Path(found[1]).parent == tmp_path
    assert "Traceback" in Path(found[1]).read_text()


def test_the_trace_is_shown_to_who_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DWINDLE_DEBUG", "1")
    monkeypatch.setitem(cli.RUN, "show", failing(ZeroDivisionError("division by zero")))  # type: ignore[arg-type]
    assert cli.main(["show", "net.dwindle"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "division by zero" in said.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied", "a.json"), MemoryError(), OSError(36, "File name too long", b"a\xff")],
)
def test_what_the_system_refuses_is_said_as_it_is(tmp_path: Path, error: Exception) -> None:
    said = sentence(error)
    assert len(said.splitlines()) == 1
    said.encode()
    assert list(tmp_path.iterdir()) == [], "it is nobody's bug, so there is no report of one"


def test_without_a_place_for_the_file_the_sentence_says_how_to_see_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    assert "DWINDLE_DEBUG=1" in sentence(ValueError("x"))
