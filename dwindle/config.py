"""`--config FILE.toml`: options from a file, as if they stood before those of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dwindle.errors import UsageError
from dwindle.files import read_toml
from dwindle.registry import unknown

FLAG = "--config"
NOT_IN_A_FILE = ("config", "help", "json", "quiet")
"""Options that belong on the command line."""


def expand(argv: Sequence[str], command: argparse.ArgumentParser, ignored: Collection[str] = frozenset()) -> list[str]:
    """Replaces `--config FILE` in `argv` (a command and its options) by the file's options, before all others.

    The keys of the file are the long names of the options that `command` has, without their dashes, and those of its
    positional arguments. One file may serve several commands: keys in `ignored`, which another command has, are
    ignored. Raises UsageError for a file that can't be read, and for an unknown key or a value of the wrong type.
    """
    name, *rest = argv
    places = [i for i, word in enumerate(rest) if word == FLAG or word.startswith(f"{FLAG}=")]
    if not places:
        return list(argv)
    where = places[0]
    _, joined, value = rest[where].partition("=")
    if len(places) > 1 or not (joined or rest[where + 1 :]):
        raise UsageError(f"give {FLAG} once, with a file: {FLAG} FILE.toml", code="invalid-value", option="config")
    path = Path(value if joined else rest[where + 1])
    after = rest[:where] + rest[where + (1 if joined else 2) :]
    known = keys(command)
    positional: list[str] = []
    words: list[str] = []
    for key, entry in read_toml(path).items():
        option = key.replace("_", "-")
        if option in NOT_IN_A_FILE:
            raise UsageError(
                f"{path}: {option} belongs on the command line: remove it from the file",
                code="invalid-value",
                option=option,
                path=path,
            )
        if option in ignored and option not in known:
            continue
        if option not in known:
            message = f"{path}: " + unknown("option", option, sorted({*known, *ignored} - {*NOT_IN_A_FILE}))
            raise UsageError(message, code="unknown-name", name=option, path=path)
        to = words if known[option].option_strings else positional
        to += _words(path, option, entry, known[option])
    return [name, *positional, *words, *after]


def keys(command: argparse.ArgumentParser) -> Mapping[str, argparse.Action]:
    """The options of a command by their names in a configuration file: `prune-per-round`, `out`, `model`."""
    found: dict[str, argparse.Action] = {}
    for action in command._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--")]
        found[flags[0].removeprefix("--") if flags else action.dest] = action
    return found


def _words(path: Path, name: str, entry: Any, action: argparse.Action) -> list[str]:
    """The words that give an option this value on the command line."""
    flag = f"--{name}"
    if isinstance(action, argparse.BooleanOptionalAction):
        if isinstance(entry, bool):
            return [flag if entry else f"--no-{name}"]
        raise _wrong(path, name, entry, "true or false")
    several = isinstance(entry, list) and all(isinstance(one, str) for one in entry)
    if several and isinstance(action, argparse._AppendAction):
        return [f"{flag}={one}" for one in entry]
    if several and entry and action.nargs == "+" and action.option_strings:
        return [flag, *entry]
    if isinstance(entry, bool) or not isinstance(entry, str | int | float):
        raise _wrong(path, name, entry, "strings" if action.nargs == "+" else "one string or number")
    return [f"{flag}={entry}"] if action.option_strings else [str(entry)]


def _wrong(path: Path, name: str, entry: Any, wanted: str) -> UsageError:
    return UsageError(
        f"{path}: {name} is {'an' if type(entry).__name__ == 'int' else 'a'} {type(entry).__name__}: give {wanted}",
        code="invalid-value",
        option=name.replace("-", "_"),
        path=path,
    )
