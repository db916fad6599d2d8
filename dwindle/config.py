"""`--config FILE.toml`: options from a file, as if they stood before those of the command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dwindle.errors import UsageError
from dwindle.files import read_toml
from dwindle.registry import unknown

FLAG = "--config"


def expand(argv: Sequence[str], known: Collection[str], writing: Collection[str] = ()) -> list[str]:
    """`argv` (a command and its options) with the file's options in the place of `--config FILE`, before all others.

    The file's keys are the names of options without their dashes, `model`, and `out` for `-o`; `known` are those that
    the command has. One file serves `compress` and `plan`, which has nothing to write: it passes over the options in
    `writing`. Raises UsageError for a file that can't be read, or has a key or a value that is no option.
    """
    command, *rest = argv
    files = [i for i, word in enumerate(rest) if word == FLAG or word.startswith(f"{FLAG}=")]
    if not files:
        return list(argv)
    where = files[0]
    _, joined, value = rest[where].partition("=")
    if len(files) > 1 or not (joined or rest[where + 1 :]):
        raise UsageError(f"give {FLAG} once, with a file: {FLAG} FILE.toml")
    path = Path(value if joined else rest[where + 1])
    after = rest[:where] + rest[where + (1 if joined else 2) :]
    model, words = [], []
    for name, entry in read_toml(path).items():
        option = name.replace("_", "-")
        if option == "model" and isinstance(entry, str):
            model = [entry]
        elif option not in writing or command == "compress":
            words += _words(path, option, entry, {"model", *known, *writing})
    return [command, *model, *words, *after]


def _words(path: Path, name: str, entry: Any, known: Collection[str]) -> list[str]:
    if name not in known:
        raise UsageError(f"{path}: " + unknown("option", name, sorted(known)))
    if isinstance(entry, bool):
        off = [f"--no-{name}"] if f"no-{name}" in known else []
        return [f"--{name}"] if entry else off
    if isinstance(entry, list) and name == "track":
        return [f"--{name}={one}" for one in entry]
    if isinstance(entry, list) and name in ("include", "exclude"):
        return [f"--{name}", *map(str, entry)]
    if name == "model" or not isinstance(entry, str | int | float):
        wanted = {"model": "a string", "include": "patterns", "exclude": "patterns"}.get(name, "one string or number")
        raise UsageError(f"{path}: {name} is a {type(entry).__name__}: give {wanted}")
    return [f"--{name}={entry}"]
