"""The command line. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from dwindle import crash, missing, streams
from dwindle.errors import DwindleError, RuntimeUnavailable, UsageError
from dwindle.foreign import single_line
from dwindle.grammar import BEGIN, COMMANDS, Grammar
from dwindle.options import as_flags
from dwindle.output import FIRST_RANK, RANK, fail, print_json, set_quiet, tell

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    streams.protect()
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        tell(BEGIN)
        return UsageError.exit_code
    grammar = Grammar()
    try:
        arguments = grammar.parse(words)
    except DwindleError as error:
        fail(f"dwindle: {single_line(str(error))}")
        return error.exit_code
    set_quiet(arguments.quiet)
    try:
        return RUN[arguments.command](arguments)
    except DwindleError as error:
        # What to do may be an option of compress, such as to keep samples so that export needs no data.
        flags = grammar.flags("compress") | grammar.flags(arguments.command)
        sentence = single_line(as_flags(str(error), flags))
        fail(f"dwindle: {sentence}" if FIRST_RANK else f"dwindle: rank {RANK}: {sentence}")
        return error.exit_code
    except ModuleNotFoundError as error:
        if (line := missing.line(error, arguments.command)) is None:
            fail(f"dwindle: {crash.sentence(error)}")
            return DwindleError.exit_code
        fail(f"dwindle: {arguments.command} needs {error.name}, which is not installed: {line}")
        return RuntimeUnavailable.exit_code
    except KeyboardInterrupt:
        hint = "; the same command resumes it" if arguments.command == "compress" else ""
        tell(f"\ndwindle: interrupted{hint}")
        return INTERRUPTED
    except Exception as error:
        fail(f"dwindle: {crash.sentence(error)}")
        return DwindleError.exit_code


def _schema(arguments: argparse.Namespace) -> int:
    from dwindle.schema import schema

    print_json(schema(Grammar().commands["compress"]))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    streams.print_document(shtab.complete(Grammar().top, arguments.shell))
    return 0


RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    **{command.name: command.run for command in COMMANDS},
    "schema": _schema,
    "completion": _completion,
}
"""What does each command, by its name."""
