"""What the commands that make a checkpoint take and do: init, compress and plan."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from dwindle.commands.command import Command, json_option
from dwindle.compress.request import Request
from dwindle.errors import BudgetMissed, UsageError
from dwindle.models.spec import TaskSpec
from dwindle.options import add_options, as_flags, flags
from dwindle.output import facts, print_json, print_result, say, stderr_console, summary, tell, warn, working


def _request_options(to: argparse.ArgumentParser) -> None:
    add_options(to, TaskSpec, Request)
    to.add_argument(
        "--config",
        metavar="FILE.toml",
        help="A TOML file with any of these options as keys, without their dashes; those given here take precedence.",
    )


def _init_options(to: argparse.ArgumentParser) -> None:
    """Its options are those of compress that every configuration has; what isn't given is asked on a terminal."""
    from dwindle.first_config import QUESTIONS

    to.usage = "dwindle init [MODEL] [options]"
    for question in QUESTIONS:
        flag = "model" if question.option == "model" else flags(Request, TaskSpec)[question.option]
        how: dict[str, Any] = {"nargs": "?"} if flag == "model" else {"dest": question.option}
        default = question.default or "none"
        to.add_argument(
            flag,
            metavar=question.option.upper(),
            help=f"{question.asks}. Asked for where it isn't given. Default: {default}.",
            **how,
        )
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("net.toml"),
        metavar="FILE.toml",
        help="The file to write; none is overwritten. Default: net.toml.",
    )


def _init(arguments: argparse.Namespace) -> int:
    from dwindle.first_config import QUESTIONS, Question, answers, write_config

    def ask(question: Question) -> str:
        from rich.prompt import Prompt

        page = stderr_console(always=True)
        while True:
            answer = Prompt.ask(question.asks, console=page, default=question.default or None) or ""
            try:
                question.check(answer)
            except UsageError as error:
                tell(str(error))
            else:
                return answer

    asked = {question.option: getattr(arguments, question.option) for question in QUESTIONS}
    found = answers(asked, ask if sys.stdin.isatty() else None)
    write_config(found, arguments.out)
    say(f"wrote {arguments.out}; now: dwindle plan --config {arguments.out}")
    return 0


def _compress_options(to: argparse.ArgumentParser) -> None:
    to.usage = "dwindle compress MODEL (--data DATA | --task FACTORY) -o NET.dwindle [options]"
    _request_options(to)
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="NET.dwindle",
        help="The folder to write the checkpoint to. An unfinished one that was made with the same options is resumed.",
    )
    to.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="WHERE",
        help="Send the figures of the run to a tracker: tensorboard:DIR, mlflow:URI or trackio:PROJECT. May be given "
        "several times. Default: none; history.jsonl in the checkpoint is always written.",
    )
    json_option(to)


def _compress(arguments: argparse.Namespace) -> int:
    with working("loading PyTorch"):
        from dwindle.compress import compress
        from dwindle.compress.progress import drawing
        from dwindle.live import loss_line
        from dwindle.tracking import tracker

    request = _request(arguments)
    trackers = [tracker(spec) for spec in arguments.track]
    with drawing(stderr_console(), request.target) as watching:
        done = compress(request, arguments.out, watching, trackers)
    print_result(arguments, summary(done))
    if loss := loss_line(done.metrics, done.metric):
        page = stderr_console(always=True)
        page.print(loss, soft_wrap=not page.is_terminal)
    if arguments.json:
        print_json(facts(done))
    return 0


def _plan_options(to: argparse.ArgumentParser) -> None:
    to.usage = "dwindle plan MODEL (--data DATA | --task FACTORY) [options]"
    _request_options(to)
    to.add_argument("--strict", action="store_true", help="Exit with 3 where the file would not get smaller.")
    json_option(to)


def _plan(arguments: argparse.Namespace) -> int:
    with working("loading PyTorch"):
        from dwindle.compress import plan
        from dwindle.compress.request import request_of

    request = request_of(arguments)
    try:
        with working("building the network and its files, to see what a compression would do"):
            forecast = plan(request, progress=say)
    except UsageError as error:
        if error.code != "no-budget":
            raise
        return _curve(arguments)
    named = flags(Request, TaskSpec)
    print_result(arguments, *(as_flags(f"{of}: {fact}", named) for of, fact in forecast.facts))
    if arguments.json:
        print_json(dataclasses.asdict(forecast))
    missed = any(not each.smaller for each in forecast.benefits if each.target == request.target)
    if missed:
        warn(f"this granularity does not make the {request.target} file smaller; channels would")
    refused = next((each.exit_code for each in forecast.rehearsed if each.exit_code), 0)
    return refused or (BudgetMissed.exit_code if missed and arguments.strict else 0)


def _curve(arguments: argparse.Namespace) -> int:
    """What several budgets come to, where none is given."""
    from dwindle.compress import curve
    from dwindle.compress.request import request_of
    from dwindle.live import curve_table

    with working("building the network and its files at several densities, as no budget is given"):
        forecasts = curve(request_of(arguments))
    print_result(arguments, curve_table(forecasts))
    if arguments.json:
        print_json([dataclasses.asdict(forecast) for forecast in forecasts])
    return next((each.exit_code for each in forecasts[0].rehearsed if each.exit_code), 0)


def _request(arguments: argparse.Namespace) -> Request:
    """Makes the request from the arguments, and checks it before anything starts."""
    from dwindle.compress.request import request_of
    from dwindle.compress.resolve import resolve

    request = request_of(arguments)
    resolve(request)
    return request


COMMANDS = (
    Command(
        "init",
        "Write a first configuration file, from four answers.",
        _init_options,
        _init,
    ),
    Command(
        "compress",
        "Train, prune and retrain a network until it meets its budget.",
        _compress_options,
        _compress,
        (
            "dwindle compress zoo:resnet20 --data cifar10 --size 60KB -o net.dwindle",
            "dwindle compress my_code:net --task my_code:Loop --max-drop 1 -o net.dwindle",
        ),
    ),
    Command(
        "plan",
        "Forecast a compression: rounds, time, bytes per target, and whether it pays.",
        _plan_options,
        _plan,
        (
            "dwindle plan zoo:resnet20 --data cifar10",
            "dwindle plan zoo:resnet20 --data cifar10 --size 60KB --for coreml",
        ),
    ),
)
