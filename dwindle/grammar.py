"""The command line's commands, and the options of each."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from dwindle import __version__
from dwindle.commands import compressing, exporting, gating, measuring, showing, sweeping
from dwindle.config import expand, keys
from dwindle.foreign import single_line
from dwindle.output import fail

BEGIN = """dwindle shrinks a trained PyTorch network to the bytes that an app has for
it. Begin with one of these:

  dwindle demo                   see it work on a small network, in minutes
  dwindle init                   write net.toml for your own network
  dwindle plan MODEL --data FOLDER --size 2MB
                                 what a compression would bring, and take
  dwindle compress MODEL --data FOLDER --size 2MB -o net.dwindle
  dwindle export net.dwindle     write the file, proven equal to the network
  dwindle gate model.onnx --max-size 2MB
                                 hold any model file to a limit, in CI

dwindle --help lists every command, dwindle COMMAND --help its options."""

COMMANDS = (
    *compressing.COMMANDS,
    *sweeping.COMMANDS,
    *exporting.COMMANDS,
    *measuring.COMMANDS,
    *gating.COMMANDS,
    *showing.COMMANDS,
)
"""In the order of the help."""

EXIT_CODES = """exit codes:
  0 fine · 1 error · 2 usage · 3 budget missed · 4 parity failed · 5 runtime unavailable · 130 interrupted"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds the registered devices to the help when it is printed: importing all of them takes longer than parsing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.dest not in ("device", "setup"):
            return super()._get_help_string(action)
        from dwindle.bench.devices.registry import device_help, setup_help

        registered = device_help() if action.dest == "device" else setup_help()
        return f"{action.help}\n{registered}".replace("%", "%%")

    def _split_lines(self, text: str, width: int) -> list[str]:
        split = super()._split_lines
        return [part for line in text.splitlines() for part in split(line, width)]


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated flags, and reports an error in a sentence instead of twenty lines of usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **options,
            epilog=EXIT_CODES,
            formatter_class=_HelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")

    def error(self, message: str) -> NoReturn:
        fail(f"{self.prog}: {single_line(message)} (see {self.prog} --help)")
        self.exit(2)


class Grammar:
    """The parser of the whole command line, and that of each command."""

    def __init__(self) -> None:
        self.top = _Parser(
            prog="dwindle",
            description="Shrink a PyTorch network to a budget, export it packed, measure and gate what ships.",
        )
        self.top.add_argument(
            "--version", action="version", version=f"dwindle {__version__}", help="Print the version and exit."
        )
        self._commands = self.top.add_subparsers(metavar="COMMAND", required=True)
        self.commands: dict[str, argparse.ArgumentParser] = {}
        for command in COMMANDS:
            command.options(self._add(command.name, command.summary, command.examples))
        self._add("schema", "Print the JSON Schema of configuration files, by which editors complete and check them.")
        _completion(self._add("completion", "Print a script that lets a shell complete commands and options."))

    def _add(self, name: str, summary: str, examples: Sequence[str] = ()) -> argparse.ArgumentParser:
        described = "\n".join([summary, *(f"  {line}" for line in examples)])
        made: argparse.ArgumentParser = self._commands.add_parser(name, help=summary, description=described)
        made.set_defaults(command=name)
        made.add_argument("-q", "--quiet", action="store_true", help="Print no progress and no notes. Default: off.")
        self.commands[name] = made
        return made

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parses a command line; the result's `command` is the name of its command.

        Exits with 2 for an unknown option or a wrong value, as argparse does. Raises UsageError for a configuration
        file that can't be used.
        """
        compress = self.commands["compress"]
        if argv[:1] in (["compress"], ["plan"]):
            argv = expand(argv, self.commands[argv[0]], keys(compress).keys())
        parsed, unknown = self.top.parse_known_args(argv)
        if unknown:  # argparse's own sentence points to the help of `dwindle`, which lists no options
            of = self.commands[parsed.command]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], of._option_string_actions, 1, 0.75)
            meant = f"; did you mean {near[0]}?" if near else ""
            of.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return parsed

    def flags(self, command: str) -> dict[str, str]:
        """The flag of each option of a command, by the name of its argument in Python."""
        options = [action for action in self.commands[command]._actions if action.option_strings]
        return {action.dest: max(action.option_strings[:2], key=_is_long) for action in options}


def _is_long(flag: str) -> bool:
    return flag.startswith("--") and not flag.startswith("--no-")


def _completion(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "shell",
        metavar="SHELL",
        choices=("bash", "zsh"),
        help="The shell, bash or zsh. It reads the script by: source <(dwindle completion bash).",
    )
