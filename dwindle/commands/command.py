"""What a command is, and the options that several have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    """Adds its options to its parser. Imports nothing heavy, so that help is quick."""
    run: Callable[[argparse.Namespace], int]
    """Does it, and returns the exit code; what it needs is imported in it."""
    examples: tuple[str, ...] = ()
    """Command lines that its help begins with."""


def checkpoint_option(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle", type=Path, help="The checkpoint, a folder that compress made.")


def json_option(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="Print the result as one JSON document on stdout.")


def trust_options(to: argparse.ArgumentParser) -> None:
    own = to.add_argument_group("code that the checkpoint names and that may run")
    for name in ("model", "task"):
        own.add_argument(
            f"--{name}",
            metavar="SPEC",
            help=f"The {name}'s factory (package.module:factory) that the checkpoint was made with. It is run if the "
            "checkpoint names the same one. Default: none.",
        )
    own.add_argument(
        "--trust",
        action="store_true",
        help="Run whatever code the checkpoint names, as you would run a program of whoever made it. Default: off.",
    )


def trusted(arguments: argparse.Namespace) -> bool | list[str]:
    """The code that the checkpoint may run: the specs that the command line names too, or any."""
    named = [spec for spec in (arguments.model, arguments.task) if spec is not None]
    return True if arguments.trust else named


def names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]
