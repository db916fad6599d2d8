"""The command line's commands, and the options of each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from dwindle import __version__
from dwindle.bench.limits import KINDS
from dwindle.compress.request import Request
from dwindle.config import expand, keys
from dwindle.export.options import ExportOptions
from dwindle.foreign import single_line
from dwindle.models.spec import TaskSpec
from dwindle.options import add_options, as_flags, flags

BEGIN = """dwindle shrinks a trained PyTorch network to the bytes that an app has for it. Begin with one of these:

  dwindle demo                                 see it work on a small network, in a few minutes
  dwindle init                                 write net.toml for your own network, from four answers
  dwindle plan MODEL --data FOLDER --size 2MB  what a compression would bring, and how long it would take
  dwindle compress MODEL --data FOLDER --size 2MB -o net.dwindle
  dwindle export net.dwindle --target coreml
  dwindle gate model.onnx --max-size 2MB       hold any model file to a limit, in CI

dwindle --help lists every command, dwindle COMMAND --help its options."""

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
        self.exit(2, f"{self.prog}: {single_line(message)} (see {self.prog} --help)\n")


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
        _init(self._add("init", "Write a first configuration file, from four answers."))
        _compress(self._add("compress", "Train, prune and retrain a network until it meets its budget."))
        _plan(self._add("plan", "Forecast a compression: rounds, time, bytes per target, and whether it pays."))
        _export(self._add("export", "Write the packed files, each proven equal to the checkpoint."))
        _bench(self._add("bench", "Measure size, accuracy and latency of the exported files."))
        _gate(
            self._add(
                "gate", "Check measured files, or any model files, against limits; exit with 3 where one is missed."
            )
        )
        _report(self._add("report", "Write one self-contained HTML page about a checkpoint, or about several."))
        _show(self._add("show", "Print what a checkpoint is and how it was made."))
        _attest(self._add("attest", "Write a bill of materials and a signed statement of how model files came about."))
        _verify(
            self._add(
                "verify", "Say whether a checkpoint or a model file is whole and signed; exit with 1 if it isn't."
            )
        )
        _card(self._add("card", "Print a model card in Markdown, with the front matter of Hugging Face's hub."))
        _diff(self._add("diff", "Compare two checkpoints: bytes, accuracy, latency, widths and options."))
        _doctor(self._add("doctor", "List what is installed to work with, and the command that adds what isn't."))
        self._add("schema", "Print the JSON Schema of configuration files, by which editors complete and check them.")
        _completion(self._add("completion", "Print a script that lets a shell complete commands and options."))
        _demo(self._add("demo", "Train, compress, export and measure a small network in a few minutes."))

    def _add(self, name: str, summary: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = self._commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(command=name)
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
        return self.top.parse_args(argv)

    def flags(self, command: str) -> dict[str, str]:
        """The flag of each option of a command, by the name of its argument in Python."""
        options = [action for action in self.commands[command]._actions if action.option_strings]
        return {action.dest: max(action.option_strings[:2], key=_is_long) for action in options}


def _is_long(flag: str) -> bool:
    return flag.startswith("--") and not flag.startswith("--no-")


def _checkpoint(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle", type=Path, help="The checkpoint, a folder that compress made.")


def _json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="Print the result as one JSON document on stdout.")


def _trust(to: argparse.ArgumentParser) -> None:
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


def _init(to: argparse.ArgumentParser) -> None:
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


def _completion(to: argparse.ArgumentParser) -> None:
    to.add_argument("shell", metavar="SHELL", choices=("bash", "zsh"), help="The shell: bash or zsh.")


def _request(to: argparse.ArgumentParser) -> None:
    add_options(to, TaskSpec, Request)
    to.add_argument(
        "--config",
        metavar="FILE.toml",
        help="A TOML file with any of these options as keys, without their dashes; those given here take precedence.",
    )


def _compress(to: argparse.ArgumentParser) -> None:
    to.usage = "dwindle compress MODEL (--data DATA | --task FACTORY) -o NET.dwindle [options]"
    _request(to)
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
    _json(to)


def _plan(to: argparse.ArgumentParser) -> None:
    to.usage = "dwindle plan MODEL (--data DATA | --task FACTORY) [options]"
    _request(to)
    to.add_argument("--strict", action="store_true", help="Exit with 3 where the file would not get smaller.")
    _json(to)


def _export(to: argparse.ArgumentParser) -> None:
    _checkpoint(to)
    to.add_argument(
        "--target",
        default="onnx",
        metavar="TARGETS",
        help="The formats to write, comma-separated: onnx, coreml, executorch, executorch-coreml, litert, mnn or "
        "pytorch. Default: onnx.",
    )
    to.add_argument(
        "--delegate",
        metavar="NAME",
        help="What runs ExecuTorch files: xnnpack on the CPU, or coreml, which packs zeros. Default: xnnpack.",
    )
    add_options(to, ExportOptions)
    to.add_argument(
        "--snippet",
        metavar="LANGUAGE",
        help="Print code that runs the file in an app, with its names, shapes and normalisation: python (onnx, "
        "executorch, litert), swift (coreml), kotlin (onnx, executorch, litert) or js (onnx). Default: none.",
    )
    _trust(to)
    _json(to)


def _bench(to: argparse.ArgumentParser) -> None:
    _checkpoint(to)
    to.add_argument(
        "--device",
        default="host",
        metavar="DEVICES",
        help="The devices to run the files on, comma-separated. Default: host.",
    )
    to.add_argument(
        "--data",
        metavar="DATA",
        help="The checkpoint's data, where it lies elsewhere now: a folder, or the factory that the checkpoint names, "
        "which is then run. It must be the same data. Default: where it was, as seen from the checkpoint.",
    )
    to.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="The number of threads that an inference may use. Default: 1.",
    )
    to.add_argument(
        "--profile", action="store_true", help="On this machine, also measure the time that each operator takes."
    )
    to.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="Also print the dense files, intervals, samples that changed class, ARM64 costs, and why figures are "
        "absent. Default: off.",
    )
    to.add_argument(
        "--sparse",
        action="store_true",
        help="On arm64, also count the instructions of ExecuTorch files with ExecuTorch's sparse kernels.",
    )
    _trust(to)
    _json(to)


def _gate(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "files",
        metavar="NET.dwindle|FILE",
        nargs="*",
        type=Path,
        help="The checkpoints and model files (.onnx, .tflite, .mlpackage, .mlmodel, .pte, .pt2, .mnn) to check, or "
        "patterns of their names. Default: those that --limits names.",
    )
    limits = to.add_argument_group("limits (all that are given must hold)")
    flags = {name: f"--{name.replace('_', '-')}" for name in (*KINDS, "baseline", "reference", "inputs")}
    for name, kind in KINDS.items():
        summary = as_flags(kind.help, flags).replace("%", "%%")
        limits.add_argument(flags[name], metavar=kind.metavar, help=f"{summary} Default: no limit.")
    limits.add_argument(
        "--limits",
        type=Path,
        metavar="FILE.toml",
        help='A TOML file with limits in a table [gate], [gate.TARGET], [gate.device.NAME] or [gate.file."NAME"]. '
        "Default: none.",
    )
    limits.add_argument(
        "--baseline",
        type=Path,
        metavar="PATH",
        help="What --max-growth compares with: a bench.json or checkpoint; of a model file an earlier version of it, "
        "or a folder with one of its name. Default: none.",
    )
    limits.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="A model file, of any format, whose outputs on --inputs the files' outputs are compared with, each in its "
        "own runtime. Default: none, and nothing is run.",
    )
    limits.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE.npz",
        help="The samples for --reference, as numpy.savez writes them: an array for each input, by name or in order, "
        "of one sample or of several along the first axis. Default: none.",
    )
    limits.add_argument(
        "--target",
        help="The one export to check. Default: those of the tables in --limits, and the one it was compressed for.",
    )
    output = to.add_argument_group("output")
    output.add_argument(
        "--history",
        type=Path,
        metavar="FILE.jsonl",
        help="Add this run's figures to this file. Without --baseline, --max-growth compares with the median of the "
        "last 10 runs in it that passed, once there are 3. Default: none.",
    )
    output.add_argument(
        "--page",
        type=Path,
        metavar="FILE.html",
        help="Write one self-contained page with each figure of --history, run by run, and what the files' bytes are. "
        "Default: don't.",
    )
    output.add_argument(
        "--init",
        type=Path,
        metavar="FILE.toml",
        help="Write a first file for --limits, which allows what is measured now and 2%% more. Default: don't.",
    )
    output.add_argument(
        "--update",
        action="store_true",
        help="Lower the sizes and costs in the file of --limits to what is measured now and 2%% more; none is raised. "
        "Check all files that its limits are for. Default: off.",
    )
    output.add_argument(
        "--badge",
        type=Path,
        metavar="FILE.svg",
        help="Write the size and the accuracy of the one file checked as a small picture. Default: don't.",
    )
    output.add_argument(
        "--why",
        action="store_true",
        help="Also show what the bytes of each file are, layer by layer, and with --baseline what grew. Default: off.",
    )
    output.add_argument(
        "--junit", type=Path, metavar="FILE.xml", help="Write the verdict as JUnit XML to this file. Default: don't."
    )
    output.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE.md",
        help="Append the verdict as a Markdown table to this file, such as the summary of a CI job. Default: don't.",
    )
    output.add_argument(
        "--part",
        type=Path,
        metavar="FILE.json",
        help="Write this job's part of the comment on a pull request to this file, which "
        "python -m dwindle.bench.pull_request posts together with the parts of other jobs. Default: don't.",
    )
    _json(to)


def _report(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "nets",
        metavar="NET.dwindle",
        nargs="+",
        type=Path,
        help="The checkpoint to report on; of several, all of one task, the page compares the frontiers.",
    )
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE.html",
        help="The page to write. Default: report.html in the checkpoint; of several checkpoints, frontier.html here.",
    )


def _show(to: argparse.ArgumentParser) -> None:
    _checkpoint(to)
    _json(to)


_SUBJECT = "The checkpoint, or a model file of any origin."


def _license(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--license",
        dest="spdx_license",
        metavar="SPDX",
        help="The model's licence as an SPDX expression, such as Apache-2.0. Default: nothing is said of it.",
    )


def _attest(to: argparse.ArgumentParser) -> None:
    to.add_argument("nets", metavar="NET.dwindle|FILE", nargs="+", type=Path, help=_SUBJECT)
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FOLDER",
        help="The folder to write FILE.intoto.json and FILE.cdx.json to. Default: beside the file; attestations/ in "
        "the checkpoint.",
    )
    to.add_argument(
        "--key",
        type=Path,
        metavar="KEY.pem",
        help="The private key to sign with, without a password: Ed25519, ECDSA or RSA. Default: none, it isn't signed.",
    )
    _license(to)
    _json(to)


def _verify(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle|FILE", type=Path, help=_SUBJECT)
    to.add_argument(
        "--attestation",
        dest="attested_by",
        type=Path,
        metavar="FILE.intoto.json",
        help="The attestation of the model file. Default: the one beside it, or in its checkpoint.",
    )
    to.add_argument(
        "--public-key",
        type=Path,
        metavar="KEY.pem",
        help="The public key that attestations must be signed with. Default: none, signatures aren't checked.",
    )
    _json(to)


def _card(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle|FILE", type=Path, help=_SUBJECT)
    to.add_argument(
        "-o", "--out", type=Path, metavar="FILE.md", help="The file to write the card to. Default: standard output."
    )
    _license(to)


def _diff(to: argparse.ArgumentParser) -> None:
    to.add_argument("before", metavar="A.dwindle", type=Path, help="The checkpoint to compare with.")
    to.add_argument("after", metavar="B.dwindle", type=Path, help="The checkpoint whose differences are shown.")
    _json(to)


def _doctor(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--setup",
        metavar="DEVICE",
        help="The device to install what it needs for. Default: only list what is missing.",
    )
    _json(to)


def _demo(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("demo.dwindle"),
        metavar="NET.dwindle",
        help="The folder to write the checkpoint to. Default: demo.dwindle.",
    )
