"""What commands print: results on stdout, progress and notes on stderr, and only in the first of several processes."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from dwindle import streams
from dwindle.errors import DwindleError
from dwindle.foreign import console, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

RANK = os.environ.get("RANK", "0")
"""The rank of this process among those that torchrun started; only the first prints."""
FIRST_RANK = RANK == "0"
UNLIMITED = 1000
"""The columns of a table in a file or a pipe: more than any has."""

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Whether this command prints its result, warnings and errors alone, without progress and notes."""
    global _quiet
    _quiet = quiet


def summary(checkpoint: Any) -> str:
    from dwindle.metrics import named
    from dwindle.quantities import format_bytes

    if not checkpoint.done:
        return f"{checkpoint.path}: unfinished; run the same `dwindle compress` again to resume it"
    dense, last = checkpoint.history[0], checkpoint.history[-1]
    test, dense_test = checkpoint.metrics["test"], checkpoint.metrics["dense_test"]
    return (
        f"{checkpoint.path}: {format_bytes(dense.bytes)} → {format_bytes(last.bytes)} as "
        f"{checkpoint.origin['target']} ({dense.bytes / last.bytes:.1f}× smaller, {last.density:.1%} of the "
        f"weights), {named('test', checkpoint.metric)} {test:.2f} against {dense_test:.2f} dense"
    )


def facts(checkpoint: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(checkpoint)
    del facts["model"], facts["task"]  # objects, which a command never has
    return {**facts, "path": str(checkpoint.path)}


def stderr_console(*, always: bool = False) -> Console:
    """A console for progress and notes; `always`: for what `--quiet` keeps."""
    return console(quiet=(_quiet and not always) or not FIRST_RANK)


def print_result(arguments: argparse.Namespace, *result: RenderableType) -> None:
    """Prints what a command found: on stdout, but with `--json`, whose document is alone there, on stderr.

    On a terminal a sentence is wrapped between its words, a table is cut to the width, from 80 columns up, and a Text
    with `no_wrap`, which is to be copied, stays as it is. In a file or a pipe all stays as it is.
    """
    page = console(quiet=not FIRST_RANK, stderr=arguments.json)
    page.width = max(page.width, 80) if page.is_terminal else UNLIMITED
    with page.capture() as captured:
        for each in result:
            shown = wrapped(each, page.width) if page.is_terminal and isinstance(each, str) else each
            page.print(shown, soft_wrap=isinstance(each, str) or bool(getattr(each, "no_wrap", False)))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    if arguments.json and FIRST_RANK:
        print(text, file=sys.stderr)
    elif FIRST_RANK:
        try:
            streams.print_document(text)
        except DwindleError as error:  # the exit code stays that of the work
            warn(str(error))


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows what is being done, while it is done, on a terminal."""
    with stderr_console().status(f"{what} …"):
        yield


@contextlib.contextmanager
def until_said(what: str) -> Iterator[Callable[[str], None]]:
    """Shows what is being done, on a terminal, until the function that it gives has said something: what is measured
    from then on is measured beside nothing."""
    with stderr_console().status(f"{what} …") as status:

        def first(sentence: str) -> None:
            status.stop()
            say(sentence)

        yield first


def say(sentence: str) -> None:
    """Prints a note, or what is being done."""
    if not _quiet:
        tell(sentence)


def warn(sentence: str) -> None:
    """Prints a warning, which `--quiet` keeps."""
    tell(f"warning: {sentence}")


def tell(sentence: str) -> None:
    """Prints what `--quiet` keeps."""
    if FIRST_RANK:
        _print(sentence)


def fail(sentence: str) -> None:
    """Prints why a command ends, in each of several processes."""
    _print(sentence)


def _print(sentence: str) -> None:
    said = printable(sentence)
    if sys.stderr.isatty():
        said = wrapped(said, os.get_terminal_size(streams.STDERR).columns)
    print(said, file=sys.stderr)


def wrapped(text: str, width: int) -> str:
    """Text with lines of at most so many characters, broken between words: no path or flag is broken."""
    fill = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False, expand_tabs=False).fill
    return "\n".join(fill(line) for line in text.split("\n"))


def print_json(document: Any) -> None:
    if FIRST_RANK:
        streams.print_document(json.dumps(document, indent=2, default=str))
