from __future__ import annotations

import argparse
import io

import pytest
from rich.console import Console
from rich.text import Text

from dwindle import output
from dwindle.grammar import BEGIN
from dwindle.output import print_result, until_said, wrapped

PATH = "photographs/of/animals/that/live/in/the/woods/net.dwindle"


def test_sentences_are_broken_between_words_and_paths_are_not() -> None:
    sentence = f"{PATH}: 311 KB → 11.9 KB as onnx, test accuracy 96.66 against 80.22 dense; export it with --no-packing"
    for width in (20, 40, 80):
        lines = wrapped(sentence, width).split("\n")
        assert " ".join(lines) == sentence
        assert all(len(line) <= width or line == line.split(" ")[0] for line in lines)
    assert wrapped("\ndwindle: interrupted", 80) == "\ndwindle: interrupted"


def test_what_is_to_be_copied_is_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"dwindle compress zoo:resnet8 --data digits --size 12KB --prune-per-round 30% --epochs 3 -o {PATH}"
    sentence = "a sentence " * 12
    for terminal in (True, False):
        page = Console(force_terminal=terminal, color_system=None, width=80)
        monkeypatch.setattr(output, "console", lambda page=page, **options: page)
        print_result(argparse.Namespace(json=False), Text(command, no_wrap=True), sentence)
        first, *rest = capsys.readouterr().out.splitlines()
        assert first == command
        assert len(rest) == (2 if terminal else 1)


def test_what_is_done_is_shown_until_something_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(output, "stderr_console", lambda: console)
    with until_said("starting the runtimes") as said:
        assert console._live_stack
        said("onnx on host")
        assert not console._live_stack
    assert "starting the runtimes" in screen.getvalue()


def test_a_terminal_shows_where_to_begin() -> None:
    assert max(map(len, BEGIN.splitlines())) < 80
