"""Wrong command lines, made from the parser's own options: each is refused in one line with the exit code of usage."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator

from dwindle.cli import main
from dwindle.grammar import Grammar

LEAST = 575
WRONG_VALUES = ("", "much", "-1x", "1.2.3", "nan%", "\x1b[31m", "[/x]", "a\nb", "1e", "٣٣")
"""Of an option that takes a number, a size or a share."""


def wrong_lines() -> Iterator[list[str]]:
    grammar = Grammar()
    for word in ("", "comprss", "COMPRESS", "--nothing", "\x1b[31m", "[/x]", "-z"):
        yield [word]
    for name, command in grammar.commands.items():
        needed = [name, *_required(command)]
        for word in ("--nothing", "--nothing=3", "--\x1b[31m", "--[/x]", "-z", "--json=3" if name != "demo" else "-Z"):
            yield [*needed, word]
        if not any(action.nargs in ("+", "*") for action in command._actions):
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


def refused(line: list[str]) -> str | None:
    """None where a wrong command line ends with the exit code of usage and one line on stderr; else what came."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code: object = main(line)
        except SystemExit as left:
            code = left.code
        except Exception as error:  # a traceback, for whoever types that
            return f"{line}: {error!r}"
    words = said.getvalue()
    if code == 2 and words.count("\n") == 1 and words.startswith("dwindle") and "\x1b" not in words:
        return None
    return f"{line}: {code}, {words!r}"
