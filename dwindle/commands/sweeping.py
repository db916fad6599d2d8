"""What the command sweep takes and does."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from dwindle.commands.command import Command, json_option
from dwindle.errors import DwindleError
from dwindle.output import print_json, print_result, say


def _sweep_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "file",
        metavar="SWEEP.toml",
        type=Path,
        help="A configuration file of compress with a table [sweep], whose keys are options and whose values lists: "
        "each combination of them is compressed.",
    )
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="The folder for the checkpoints, their logs and frontier.html. The same command resumes a sweep.",
    )
    to.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="The number of trials that run at once on a machine, which share its cores. Default: 1.",
    )
    to.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="Run the trials on the machines of a Ray cluster (pip install 'dwindle[ray]'): its address, auto for the "
        "one that this machine belongs to, or local for this machine alone. FOLDER must be the same place on all. "
        "Default: none; they run in processes of this machine.",
    )
    json_option(to)


def _sweep(arguments: argparse.Namespace) -> int:
    from dwindle.bench import frontier_report
    from dwindle.sweep import finished, sweep

    outcomes = sweep(arguments.file, arguments.out, say, max(1, arguments.jobs), arguments.ray)
    if done := list(finished(outcomes)):
        say(f"wrote {frontier_report(done, arguments.out / 'frontier.html')}")
    failed = [each for each in outcomes if each.exit_code]
    print_result(arguments, f"{len(done)} of {len(outcomes)} trials are finished")
    for each in failed:
        print_result(arguments, f"failed with {each.exit_code}: {each.name}: {each.said}")
    if arguments.json:
        print_json([dataclasses.asdict(each) for each in outcomes])
    return DwindleError.exit_code if failed else 0


COMMANDS = (
    Command(
        "sweep",
        "Compress once for every combination of options, such as sizes and seeds, and draw the frontier.",
        _sweep_options,
        _sweep,
    ),
)
