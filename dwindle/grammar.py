"""The command line's grammar: commands, options, and what each means in a line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dwindle import __version__
from dwindle.config import expand
from dwindle.errors import DwindleError
from dwindle.quantities import parse_bytes, parse_share

EXIT_CODES = """exit codes:
  0 fine · 1 error · 2 usage · 3 budget missed · 4 parity failed · 5 runtime unavailable · 130 interrupted"""
LIMITS = {
    "max_size": ("SIZE", "installed bytes of the file"),
    "max_download": ("SIZE", "as it is downloaded, deflated or as .zst"),
    "max_drop": ("POINTS", "test accuracy lost against dense"),
    "min_accuracy": ("POINTS", "test accuracy that it must reach"),
    "max_cost": ("COUNT", "ARM64 instructions per inference, such as 150M"),
    "max_ratio": ("RATIO", "its time over the dense file's, upper end of the interval"),
    "max_growth": ("SHARE", "of its size and cost over the baseline's, such as 2%%"),
}


def _quantity(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Gives argparse the parser's own sentence instead of `invalid value`."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except DwindleError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


SIZE, SHARE = _quantity(parse_bytes), _quantity(parse_share)
SHARE_OR_0 = _quantity(partial(parse_share, zero=True))


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Looks devices up when help is printed: to import all that are registered takes longer than to parse."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.dest not in ("device", "setup"):
            return super()._get_help_string(action)
        from dwindle.bench.devices.registry import device_help, setup_help

        return (device_help() if action.dest == "device" else setup_help()).replace("%", "%%")

    def _split_lines(self, text: str, width: int) -> list[str]:
        split = super()._split_lines
        return [part for line in text.splitlines() for part in split(line, width)]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence, without the twenty lines of every option there is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """What can be said. `command` of what it parses is the name of one."""
    top = _Parser(
        prog="dwindle",
        description="Shrink a PyTorch network to a budget, export it packed, measure and gate what ships.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"dwindle {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, epilog=EXIT_CODES)
        made.formatter_class = _HelpFormatter
        made.set_defaults(command=name)
        return made

    def as_json(to: argparse.ArgumentParser) -> None:
        to.add_argument("--json", action="store_true", help="print one JSON document on stdout")

    def checkpoint(to: argparse.ArgumentParser) -> None:
        to.add_argument("net", metavar="NET.dwindle", type=Path)

    made = command("compress", "Train, prune and retrain a network until it meets its budget.")
    _add_request(made)
    made.add_argument("-o", "--out", type=Path, required=True, metavar="NET.dwindle")
    made.add_argument("--track", action="append", default=[], metavar="WHERE", help="tensorboard:DIR, mlflow:URI …")
    as_json(made)

    made = command("plan", "Forecast a compression: rounds, time, bytes per target, and whether it pays.")
    _add_request(made)
    made.add_argument("--target", dest="targets", help="count bytes on these, comma-separated (the one of --for)")
    made.add_argument("--strict", action="store_true", help="exit 3 where the file would not get smaller")
    as_json(made)

    made = command("export", "Write the packed files, each proven equal to the checkpoint.")
    checkpoint(made)
    made.add_argument("--target", default="onnx", help="one or more: onnx,coreml,executorch,litert,pytorch")
    made.add_argument("--delegate", metavar="D", help="of executorch files: xnnpack, or coreml, which packs zeros")
    made.add_argument(
        "--precision",
        metavar="P",
        help="of weights: fp32, fp16, int8, int4, palette4, auto (what --size was counted at)",
    )
    made.add_argument(
        "--max-drop", type=float, metavar="POINTS", help="auto: what the smallest file may cost on validation"
    )
    made.add_argument("--packing", default="auto", metavar="HOW", help="none: a plain dense file")
    made.add_argument(
        "--calib-samples", type=int, metavar="N", help="executorch int8: training samples that set its ranges (256)"
    )
    made.add_argument("--image-input", action="store_true", help="coreml: take an image, and normalise it inside")
    made.add_argument(
        "--classes", nargs="?", const="", metavar="FILE", help="coreml: class labels, the data's own or a line each"
    )
    made.add_argument("--min-os", metavar="OS", help="coreml: iOS16, iOS17 or iOS18, which alone has sparse codes")
    as_json(made)

    made = command("bench", "Measure size, accuracy and latency of the exported files.")
    checkpoint(made)
    made.add_argument("--device", default="host", metavar="WHERE", help="see _HelpFormatter")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="that an inference may use (1)")
    made.add_argument("--profile", action="store_true", help="host: the operators that take the time")
    made.add_argument("--sparse", action="store_true", help="arm64: count ExecuTorch's sparse kernels too")
    as_json(made)

    made = command("gate", "Check the measured files against limits; exit 3 on a miss.")
    checkpoint(made)
    _add_limits(made)
    as_json(made)

    made = command("report", "Write one self-contained HTML page about a checkpoint, or about several of one task.")
    made.add_argument("nets", metavar="NET.dwindle", nargs="+", type=Path, help="several: their frontiers, by method")
    made.add_argument("-o", "--out", type=Path, metavar="FILE.html", help="NET.dwindle/report.html; frontier.html")

    made = command("show", "Print what a checkpoint is and how it came to be.")
    checkpoint(made)
    as_json(made)

    made = command("diff", "What differs between two checkpoints: bytes, accuracy, latency, widths, options.")
    made.add_argument("before", metavar="A.dwindle", type=Path)
    made.add_argument("after", metavar="B.dwindle", type=Path)
    as_json(made)

    made = command("doctor", "Say what is here to work with, and the command that adds what isn't.")
    made.add_argument("--setup", metavar="DEVICE", help="see _HelpFormatter")
    as_json(made)

    made = command("demo", "The whole way on handwritten digits, in a few minutes.")
    made.add_argument("-o", "--out", type=Path, default=Path("demo.dwindle"), metavar="NET.dwindle")
    return top


def with_config(words: list[str]) -> list[str]:
    """The command line with the options of its configuration file, for the commands that take one."""
    if words[:1] not in (["compress"], ["plan"]):
        return words
    options = argparse.ArgumentParser(add_help=False)
    _add_request(options)
    names = {name.lstrip("-") for action in options._actions for name in action.option_strings}
    return expand(words, names, {"out", "track"})


def _add_request(to: argparse.ArgumentParser) -> None:
    """The fields of `dwindle.compress.Request`; one that isn't given is left to its default there."""
    to.add_argument("model", metavar="MODEL", help="zoo:resnet20, torchvision:NAME or package.module:factory")
    to.add_argument("--weights", metavar="FILE", help="a trained start (safetensors or a state dict) to prune")
    task = to.add_argument_group("what to train on")
    task.add_argument("--data", help="digits, fashion-mnist, cifar10, cifar100, a folder, or package.module:factory")
    task.add_argument("--data-root", metavar="DIR", help="where the data set's files are")
    task.add_argument("--image-size", type=int, metavar="PIXELS", help="for a folder of images")
    task.add_argument("--task", help="your own training: package.module:factory (instead of --data)")
    task.add_argument("--epochs", type=int, metavar="N", help="per training and retraining")
    task.add_argument("--lr", type=float, help="learning rate at its peak")
    task.add_argument("--batch-size", type=int, metavar="N")
    task.add_argument("--schedule", help="step (the paper's for CIFAR), imagenet or cosine")
    task.add_argument("--warmup", type=float, metavar="FRACTION", help="of the schedule, to climb to --lr")
    task.add_argument("--crop", type=int, metavar="PIXELS", help="by which samples are shifted at random, at most")
    task.add_argument("--flip", action=argparse.BooleanOptionalAction, help="mirror half of the samples")
    task.add_argument("--augment", type=SHARE_OR_0, metavar="SHARE", help="of a training, both (100%%)")
    task.add_argument("--ema", type=float, metavar="DECAY", help="end each training on an average of its weights")
    task.add_argument("--compile", action="store_true", default=None, help="train by torch.compile's kernels")
    task.add_argument(
        "--no-record",
        dest="record",
        action="store_false",
        default=None,
        help="on a GPU, launch every step's kernels anew instead of replaying a recording of them",
    )
    budget = to.add_argument_group("budget (all that are given must hold)")
    budget.add_argument("--size", type=SIZE, metavar="SIZE", help="shipped bytes, such as 500KB")
    budget.add_argument("--macs", metavar="MACS", help="of one inference, such as 50%% or 150M")
    budget.add_argument("--density", type=SHARE, metavar="SHARE", help="of the weights, such as 10%%")
    budget.add_argument("--max-drop", type=float, metavar="POINTS", help="instead: as small as validation allows")
    budget.add_argument("--for", dest="target", metavar="TARGET", help="what --size is counted on (onnx)")
    budget.add_argument("--precision", metavar="P", help="of weights there: fp32, fp16, int8, int4, palette4")
    pruning = to.add_argument_group("pruning")
    pruning.add_argument("--granularity", metavar="G", help="auto, channel, unstructured, 4x1, 2:4, channel+2:4 …")
    pruning.add_argument("--align", type=int, metavar="N", help="channels: widths are multiples of it (8)")
    pruning.add_argument(
        "--layer-floor", type=SHARE_OR_0, metavar="SHARE", help="channels that every layer keeps (0%%)"
    )
    pruning.add_argument("--recipe", help="paper or best: schedule, score, recalibration, --augment")
    pruning.add_argument("--score", help="magnitude, layerwise or lamp")
    pruning.add_argument("--include", nargs="+", metavar="PATTERN", help="the layers that may be pruned")
    pruning.add_argument("--exclude", nargs="+", metavar="PATTERN", help="the layers that may not")
    pruning.add_argument("--method", help="lr-rewind, weight-rewind, lottery-ticket, finetune or amc")
    pruning.add_argument("--episodes", type=int, metavar="N", help="AMC: allocations that its agent tries (150)")
    pruning.add_argument("--rewind-to", type=float, metavar="FRACTION", help="of the schedule, to restart from")
    pruning.add_argument("--prune-per-round", type=SHARE, metavar="SHARE", help="of the survivors (20%%)")
    pruning.add_argument("--gradual", type=SHARE_OR_0, metavar="SHARE", help="of a retraining, to prune over (0%%)")
    pruning.add_argument(
        "--recalibrate",
        action=argparse.BooleanOptionalAction,
        help="batch norm's statistics anew after each training (the recipe says)",
    )
    pruning.add_argument("--save-every", type=float, metavar="MINUTES", help="within a round (5)")
    pruning.add_argument("--rounds", type=int, metavar="N", help="a fixed number of rounds; 1 is one-shot")
    to.add_argument("--seed", type=int)
    to.add_argument("--config", metavar="FILE.toml", help="any of these options from a file; those given here win")


def _add_limits(to: argparse.ArgumentParser) -> None:
    limits = to.add_argument_group("limits (all that are given must hold)")
    for name, (metavar, summary) in LIMITS.items():
        limits.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=summary)
    limits.add_argument("--limits", type=Path, metavar="FILE.toml", help="these in a table [gate] or [gate.TARGET]")
    limits.add_argument("--baseline", type=Path, metavar="PATH", help="bench.json or NET.dwindle to grow from")
    limits.add_argument("--target", help="which exports to check (the one it was compressed for)")
    out = to.add_argument_group("output")
    out.add_argument("--junit", type=Path, metavar="FILE.xml", help="the verdict as JUnit XML")
    out.add_argument("--markdown", type=Path, metavar="FILE.md", help="as a CI job's summary (appended)")
