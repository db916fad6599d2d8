"""The command line. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle import __version__
from dwindle.config import expand
from dwindle.errors import BudgetMissed, DwindleError
from dwindle.quantities import parse_bytes, parse_share

if TYPE_CHECKING:
    from rich.console import Console

    from dwindle.compress import Request

EXIT_CODES = """exit codes:
  0 fine · 1 error · 2 usage · 3 budget missed · 4 parity failed · 5 runtime unavailable · 130 interrupted"""
INTERRUPTED = 130
RANK = os.environ.get("RANK", "0")
"""Of this process among those that torchrun started: the first speaks for all."""
FIRST_RANK = RANK == "0"
TASK_OPTIONS = (
    "data", "data_root", "image_size", "task", "epochs", "lr", "batch_size", "schedule", "warmup", "ema", "compile",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        arguments = parser().parse_args(_with_config(sys.argv[1:] if argv is None else list(argv)))
    except DwindleError as error:
        print(f"dwindle: {error}", file=sys.stderr)
        return error.exit_code
    try:
        code: int = arguments.run(arguments)
    except DwindleError as error:
        print(f"dwindle: {error}" if FIRST_RANK else f"dwindle: rank {RANK}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        hint = "; the same command resumes it" if arguments.run is _compress else ""
        _say(f"\ndwindle: interrupted{hint}")
        return INTERRUPTED
    return code


def _with_config(words: list[str]) -> list[str]:
    """The command line with the options of its configuration file, for the commands that take one."""
    if words[:1] not in (["compress"], ["plan"]):
        return words
    options = argparse.ArgumentParser(add_help=False)
    _add_request(options, str, str)
    names = {name.lstrip("-") for action in options._actions for name in action.option_strings}
    return expand(words, names | {"out", "track"} if words[0] == "compress" else names)


def _quantity(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Gives argparse the parser's own sentence instead of `invalid value`."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except DwindleError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def parser() -> argparse.ArgumentParser:
    """The command-line grammar."""
    top = argparse.ArgumentParser(
        prog="dwindle",
        description="Shrink a PyTorch network to a budget, export it packed, measure and gate what ships.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"dwindle {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, epilog=EXIT_CODES)
        made.formatter_class = argparse.RawDescriptionHelpFormatter
        made.set_defaults(run=run)
        return made

    def as_json(to: argparse.ArgumentParser) -> None:
        to.add_argument("--json", action="store_true", help="print one JSON document on stdout")

    def checkpoint(to: argparse.ArgumentParser) -> None:
        to.add_argument("net", metavar="NET.dwindle", type=Path)

    size, share = _quantity(parse_bytes), _quantity(parse_share)

    made = command("compress", _compress, "Train, prune and retrain a network until it meets its budget.")
    _add_request(made, size, share)
    made.add_argument("-o", "--out", type=Path, required=True, metavar="NET.dwindle")
    made.add_argument("--track", action="append", default=[], metavar="WHERE", help="tensorboard:DIR, mlflow:URI …")
    as_json(made)

    made = command("plan", _plan, "Forecast a compression: rounds, time, bytes per target, and whether it pays.")
    _add_request(made, size, share)
    made.add_argument("--target", dest="targets", help="count bytes on these, comma-separated (the one of --for)")
    made.add_argument("--strict", action="store_true", help="exit 3 where the file would not get smaller")
    as_json(made)

    made = command("export", _export, "Write the packed files, each proven equal to the checkpoint.")
    checkpoint(made)
    made.add_argument("--target", default="onnx", help="one or more, comma-separated: onnx,coreml,executorch")
    made.add_argument("--precision", metavar="P", help="of weights: fp32, fp16 or int8 (what --size was counted at)")
    made.add_argument("--min-os", metavar="OS", help="coreml: iOS16, iOS17 or iOS18, which alone has sparse int8")
    as_json(made)

    made = command("bench", _bench, "Measure size, accuracy and latency of the exported files.")
    checkpoint(made)
    made.add_argument("--device", default="host", metavar="WHERE", help="host, arm64 (instructions, emulated) or both")
    made.add_argument("--profile", action="store_true", help="host: the operators that take the time")
    made.add_argument("--sparse", action="store_true", help="arm64: count ExecuTorch's sparse kernels too")
    as_json(made)

    made = command("gate", _gate, "Check the measured files against limits; exit 3 on a miss.")
    checkpoint(made)
    _add_limits(made)
    as_json(made)

    made = command("report", _report, "Write one self-contained HTML page about a checkpoint.")
    checkpoint(made)
    made.add_argument("-o", "--out", type=Path, metavar="FILE.html", help="NET.dwindle/report.html")

    made = command("show", _show, "Print what a checkpoint is and how it came to be.")
    checkpoint(made)
    as_json(made)

    made = command("diff", _diff, "What differs between two checkpoints: bytes, accuracy, latency, widths, options.")
    made.add_argument("before", metavar="A.dwindle", type=Path)
    made.add_argument("after", metavar="B.dwindle", type=Path)
    as_json(made)

    made = command("doctor", _doctor, "Say what is here to work with, and the command that adds what isn't.")
    made.add_argument("--setup", metavar="DEVICE", help="prepare a device: arm64 (100 MB from Debian and PyPI)")
    as_json(made)

    made = command("demo", _demo, "The whole way on handwritten digits, in a few minutes.")
    made.add_argument("-o", "--out", type=Path, default=Path("demo.dwindle"), metavar="NET.dwindle")
    return top


def _add_request(to: argparse.ArgumentParser, size: Callable[[str], Any], share: Callable[[str], Any]) -> None:
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
    task.add_argument("--ema", type=float, metavar="DECAY", help="end each training on an average of its weights")
    task.add_argument("--compile", action="store_true", default=None, help="train by torch.compile's kernels")
    budget = to.add_argument_group("budget (all that are given must hold)")
    budget.add_argument("--size", type=size, metavar="SIZE", help="shipped bytes, such as 500KB")
    budget.add_argument("--macs", metavar="MACS", help="of one inference, such as 50%% or 150M")
    budget.add_argument("--density", type=share, metavar="SHARE", help="of the weights, such as 10%%")
    budget.add_argument("--max-drop", type=float, metavar="POINTS", help="instead: as small as validation allows")
    budget.add_argument("--for", dest="target", metavar="TARGET", help="what --size is counted on (onnx)")
    budget.add_argument("--precision", metavar="P", help="of weights there: fp32, fp16 or int8")
    pruning = to.add_argument_group("pruning")
    pruning.add_argument("--granularity", metavar="G", help="auto, channel, unstructured, 4x1, 2:4, channel+2:4 …")
    pruning.add_argument("--align", type=int, metavar="N", help="channels: widths are multiples of it (8)")
    pruning.add_argument("--score", help="magnitude, layerwise or lamp")
    pruning.add_argument("--include", nargs="+", metavar="PATTERN", help="the layers that may be pruned")
    pruning.add_argument("--exclude", nargs="+", metavar="PATTERN", help="the layers that may not")
    pruning.add_argument("--method", help="lr-rewind, weight-rewind, lottery-ticket, finetune or amc")
    pruning.add_argument("--episodes", type=int, metavar="N", help="AMC: allocations that its agent tries (150)")
    pruning.add_argument("--rewind-to", type=float, metavar="FRACTION", help="of the schedule, to restart from")
    pruning.add_argument("--prune-per-round", type=share, metavar="SHARE", help="of the survivors (20%%)")
    pruning.add_argument("--save-every", type=float, metavar="MINUTES", help="within a round (5)")
    pruning.add_argument("--rounds", type=int, metavar="N", help="a fixed number of rounds; 1 is one-shot")
    to.add_argument("--seed", type=int)
    to.add_argument("--config", metavar="FILE.toml", help="any of these options from a file; those given here win")


LIMITS = {
    "max_size": ("SIZE", "installed bytes of the file"),
    "max_download": ("SIZE", "the same, deflated"),
    "max_drop": ("POINTS", "test accuracy lost against dense"),
    "min_accuracy": ("POINTS", "test accuracy that it must reach"),
    "max_cost": ("COUNT", "ARM64 instructions per inference, such as 150M"),
    "max_ratio": ("RATIO", "its time over the dense file's, upper end of the interval"),
    "max_growth": ("SHARE", "of its size and cost over the baseline's, such as 2%%"),
}


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


def _compress(arguments: argparse.Namespace) -> int:
    from dwindle.compress import compress
    from dwindle.live import watcher
    from dwindle.tracking import tracker

    request = _request(arguments)
    trackers = [tracker(spec) for spec in arguments.track]
    with watcher(_stderr(), request.target) as watching:
        done = compress(request, arguments.out, watching, trackers)
    _say(_summary(done))
    if arguments.json:
        _print_json(_facts(done))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from dwindle.compress import plan
    from dwindle.live import forecast_lines

    request = _request(arguments)
    forecast = plan(request, tuple(arguments.targets.split(",")) if arguments.targets else ())
    for line in forecast_lines(forecast):
        _say(line)
    if arguments.json:
        _print_json(dataclasses.asdict(forecast))
    missed = any(not pays.smaller for pays in forecast.pays if pays.target == request.target)
    if missed:
        _say(f"warning: this granularity does not make the {request.target} file smaller; channels would")
    return BudgetMissed.exit_code if missed and arguments.strict else 0


def _request(arguments: argparse.Namespace) -> Request:
    """The options of `compress` and `plan`, those of the task apart."""
    from dwindle.compress import Request
    from dwindle.errors import UsageError

    if (arguments.data is None) == (arguments.task is None):
        raise UsageError("say what to train on: give --data or --task (one of them)")
    task = {key: value for key in TASK_OPTIONS if (value := getattr(arguments, key)) is not None}
    fields = {field.name for field in dataclasses.fields(Request) if field.init} - {"task"}
    given = {key: value for key, value in vars(arguments).items() if key in fields and value is not None}
    return Request(task=task, **given)


def _export(arguments: argparse.Namespace) -> int:
    from dwindle.export import export

    given = {"precision": arguments.precision, "min_os": arguments.min_os}
    made = export(arguments.net, arguments.target.split(","), **given, progress=_say)
    for manifest in made:
        path = arguments.net / "exports" / manifest.target / manifest.file.name
        _say(f"{path}  {manifest.file.bytes:,} bytes  {manifest.encoding}")
    if arguments.json:
        _print_json([dataclasses.asdict(manifest) for manifest in made])
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from dwindle.bench import bench
    from dwindle.bench.cost import failure
    from dwindle.bench.table import bench_table
    from dwindle.errors import UsageError

    devices = arguments.device.split(",")
    if arguments.sparse and "arm64" not in devices:
        raise UsageError("--sparse counts instructions: give --device arm64 with it")
    if arguments.profile and "host" not in devices:
        raise UsageError("--profile times operators on this machine: give --device host with it")
    measured = bench(arguments.net, devices=devices, sparse=arguments.sparse, profile=arguments.profile, progress=_say)
    _stderr().print(bench_table(measured))
    if arguments.json:
        _print_json(dataclasses.asdict(measured))
    if "arm64" in devices and (wrong := failure(measured)):
        raise wrong
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from dwindle.bench import gate
    from dwindle.bench.junit import write_junit
    from dwindle.bench.markdown import append_markdown
    from dwindle.bench.table import gate_table

    given = {name: getattr(arguments, name) for name in (*LIMITS, "limits", "baseline", "target")}
    verdict = gate(arguments.net, **given)
    _stderr().print(gate_table(verdict))
    if arguments.junit:
        write_junit(verdict, arguments.net.name, arguments.junit)
    if arguments.markdown:
        append_markdown(verdict, arguments.net.name, arguments.markdown)
    if arguments.json:
        _print_json({"passed": verdict.passed, "exit_code": verdict.exit_code, **dataclasses.asdict(verdict)})
    return verdict.exit_code


def _diff(arguments: argparse.Namespace) -> int:
    from dwindle.bench import diff
    from dwindle.bench.diff_table import diff_table

    found = diff(arguments.before, arguments.after)
    _stderr().print(diff_table(found))
    if arguments.json:
        _print_json(dataclasses.asdict(found))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from dwindle.bench import report

    _say(f"wrote {report(arguments.net, arguments.out)}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from dwindle.checkpoint import Checkpoint
    from dwindle.compress.amc.allocate import allocation
    from dwindle.compress.amc.view import result_view
    from dwindle.layers import layers
    from dwindle.live import layers_table, rounds_table

    found = Checkpoint.load(arguments.net)
    if arguments.json:
        _print_json(_facts(found))
        return 0
    console = _stderr()
    console.print(rounds_table(found.history, found.origin["target"]))
    if left := layers(found):
        console.print(layers_table(left))
    if searched := allocation(found.path):
        console.print(result_view(searched))
    for whole in found.pinned:
        _say("kept whole: {channels} of {of} channels of {layer}, {reason}".format(**whole))
    _say(_summary(found))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dwindle.bench import doctor

    if arguments.setup:
        where = doctor.setup(arguments.setup, _say)
        if arguments.json:
            _print_json({"device": arguments.setup, "path": where})
        return 0
    findings = doctor.examine()
    _stderr().print(doctor.doctor_table(findings))
    if arguments.json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    if wrong := doctor.lacking(findings):
        raise wrong
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from dwindle.demo import demo

    return demo(arguments.out, _stderr())


def _summary(checkpoint: Any) -> str:
    from dwindle.quantities import format_bytes

    if not checkpoint.done:
        return f"{checkpoint.path}: unfinished; run the same `dwindle compress` again to resume it"
    dense, last = checkpoint.history[0], checkpoint.history[-1]
    test, dense_test = checkpoint.metrics["test"], checkpoint.metrics["dense_test"]
    return (
        f"{checkpoint.path}: {format_bytes(dense.bytes)} → {format_bytes(last.bytes)} as "
        f"{checkpoint.origin['target']} ({dense.bytes / last.bytes:.1f}× smaller, {last.density:.1%} of the "
        f"weights), test {test:.2f} against {dense_test:.2f} dense"
    )


def _facts(checkpoint: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(checkpoint)
    return {**facts, "path": str(checkpoint.path)}


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=not FIRST_RANK)


def _say(sentence: str) -> None:
    if FIRST_RANK:
        print(sentence, file=sys.stderr)


def _print_json(document: Any) -> None:
    if FIRST_RANK:
        print(json.dumps(document, indent=2, default=str))
