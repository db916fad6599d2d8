"""Wrong command lines, made from the parser's own options: each is refused in one line with the exit code of usage."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwindle.cli import main
from dwindle.grammar import Grammar

LEAST = 575
WRONG_VALUES = ("", "much", "-1x", "1.2.3", "nan%", "\x1b[31m", "[/x]", "a\nb", "1e", "٣٣")
"""Of an option that takes a number, a size or a share."""


def wrong_lines() -> Iterator[list[str]]:
    grammar = Grammar()
    for word in ("", "comprss", "COMPRESS", "--nothing", "\x1b[31m", "[/x]", "-z"):
        yield [word]
    yield []
    for name, command in grammar.commands.items():
        needed = [name, *_required(command)]
        for word in ("--nothing", "--nothing=3", "--\x1b[31m", "--[/x]", "-z", "--json=3" if name != "demo" else "-Z"):
            yield [*needed, word]
        if not any(action.nargs == "+" for action in command._actions):
            yield [*needed, "one-too-many"]
        if len(needed) > 1:
            yield [name]
        for action in command._actions:
            for flag in [flag for flag in action.option_strings if flag.startswith("--")]:
                yield from ([*needed, *wrong] for wrong in _wrong(flag, action))


def _required(command: argparse.ArgumentParser) -> list[str]:
    """The least that a command has to be given, none of which is there."""
    words = ["nowhere" for action in command._actions if not action.option_strings]
    for action in command._actions:
        if action.required and action.option_strings:
            words += [action.option_strings[-1], "nowhere.dwindle"]
    return words


def _wrong(flag: str, action: argparse.Action) -> Iterator[list[str]]:
    yield [f"{flag}x"]
    yield [flag.upper()]
    yield [flag[:-1]]  # an abbreviation, or a dash too few
    if action.nargs == 0:
        yield [f"{flag}=3"]
    elif action.nargs in (None, "+") and not isinstance(action, argparse.BooleanOptionalAction):
        yield [flag]
        yield from ([f"{flag}={value}"] for value in WRONG_VALUES if _is_refused(action, value))


def _is_refused(action: argparse.Action, value: str) -> bool:
    """Whether the option's own type says so: a name may be any text, and is looked up later."""
    if not callable(action.type):
        return False
    try:
        action.type(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return True
    return False


def test_each_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = list(wrong_lines())
    assert len(lines) >= LEAST
    amiss = []
    for line in lines:
        try:
            code = main(line)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else -1
        except BaseException as error:  # a traceback, for whoever types that
            code, said = -1, repr(error)
        said = capsys.readouterr().err
        if code != 2 or said.count("\n") != 1 or not said.startswith("dwindle") or "\x1b" in said:
            amiss.append((line, code, said))
    assert amiss == []
    assert list(tmp_path.iterdir()) == []
