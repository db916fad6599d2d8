"""What the commands that measure, and show what was measured, take and do: bench, report, diff, doctor and demo."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from dwindle.commands.command import Command, checkpoint_option, json_option, names, trust_options, trusted
from dwindle.output import print_json, print_result, say, stderr_console, until_said, working


def _bench_options(to: argparse.ArgumentParser) -> None:
    checkpoint_option(to)
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
        "--on",
        metavar="PROFILE",
        help="Also print the milliseconds that a profile predicts for each file. It is a file that dwindle profile "
        "wrote, or the name of one that comes with dwindle, such as cortex-a76. Default: none.",
    )
    to.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="Also print the dense files, intervals, samples that changed class, and why figures are absent. "
        "Default: off.",
    )
    to.add_argument(
        "--sparse",
        action="store_true",
        help="On arm64, also count the instructions of ExecuTorch files with ExecuTorch's sparse kernels.",
    )
    trust_options(to)
    json_option(to)


def _bench(arguments: argparse.Namespace) -> int:
    with working("loading PyTorch"):
        from dwindle.bench import bench
        from dwindle.bench.devices.registry import reach
        from dwindle.bench.views.summary import bench_summary
        from dwindle.bench.views.table import bench_table, cost_table, operator_tables, predicted_table
        from dwindle.checkpoint import Checkpoint
        from dwindle.origin import goal

    devices = names(arguments.device)
    with until_said("loading the data, and starting the files' runtimes") as said:
        measured = bench(
            arguments.net,
            devices=devices,
            sparse=arguments.sparse,
            profile=arguments.profile,
            threads=arguments.threads,
            trust=trusted(arguments),
            data=arguments.data,
            on=arguments.on,
            progress=said,
        )
    asked_for = [*operator_tables(measured.rows), *cost_table(measured.rows), *predicted_table(measured.predicted)]
    details = [bench_table(measured)] if arguments.verbose else asked_for
    made_for = goal(Checkpoint.load(arguments.net).origin)
    print_result(arguments, bench_summary(measured.rows, made_for, str(arguments.net)), *details)
    if arguments.json:
        print_json(dataclasses.asdict(measured))
    for name in devices:
        if wrong := reach(name).failure(measured):
            raise wrong
    return 0


def _profile_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("where", metavar="WHERE", help="The device to measure on: host, ssh://user@host or adb://serial.")
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE.json",
        help="The profile to write, which compress and plan take by --on.",
    )
    to.add_argument(
        "--target",
        default="onnx",
        metavar="TARGET",
        help="The export target whose files are timed, in the device's first runtime of them. Default: onnx.",
    )
    to.add_argument(
        "--precision",
        metavar="PRECISIONS",
        help="What the files store weights in, comma-separated. Default: the target's own, and w8a8 where it has that.",
    )
    to.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="The number of threads that an inference may use. Default: 1.",
    )
    json_option(to)


def _profile(arguments: argparse.Namespace) -> int:
    with working("loading PyTorch"):
        from dwindle.bench import profile_device
        from dwindle.bench.prices.table import profile_table

    precisions = names(arguments.precision) if arguments.precision else ()
    with until_said("writing the files to time") as said:
        made = profile_device(arguments.where, arguments.target, precisions, threads=arguments.threads, progress=said)
    made.save(arguments.out)
    print_result(arguments, *profile_table(made), f"wrote {arguments.out}")
    if arguments.json:
        print_json(dataclasses.asdict(made))
    return 0


def _report_options(to: argparse.ArgumentParser) -> None:
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


def _report(arguments: argparse.Namespace) -> int:
    from dwindle.bench import frontier_report, report

    first, *others = arguments.nets
    out = frontier_report(arguments.nets, arguments.out or "frontier.html") if others else report(first, arguments.out)
    say(f"wrote {out}")
    return 0


def _diff_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("before", metavar="A.dwindle", type=Path, help="The checkpoint to compare with.")
    to.add_argument("after", metavar="B.dwindle", type=Path, help="The checkpoint whose differences are shown.")
    json_option(to)


def _diff(arguments: argparse.Namespace) -> int:
    from dwindle.bench import diff
    from dwindle.bench.views.diff_table import diff_table

    found = diff(arguments.before, arguments.after)
    print_result(arguments, diff_table(found))
    if arguments.json:
        print_json(dataclasses.asdict(found))
    return 0


def _doctor_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--setup",
        metavar="DEVICE",
        help="The device to install what it needs for. Default: only list what is missing.",
    )
    json_option(to)


def _doctor(arguments: argparse.Namespace) -> int:
    from dwindle.bench import doctor

    if arguments.setup:
        where = doctor.setup(arguments.setup, say)
        if arguments.json:
            print_json({"device": arguments.setup, "path": where})
        return 0
    with working("asking each runtime and device what it has"):
        findings = doctor.examine()
    print_result(arguments, doctor.doctor_table(findings))
    if arguments.json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if wrong := doctor.lacking(findings):
        raise wrong
    return 0


def _demo_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("demo.dwindle"),
        metavar="NET.dwindle",
        help="The folder to write the checkpoint to. Default: demo.dwindle.",
    )


def _demo(arguments: argparse.Namespace) -> int:
    from dwindle.demo import demo

    return demo(arguments.out, stderr_console())


COMMANDS = (
    Command(
        "bench",
        "Measure size, accuracy and latency of the exported files.",
        _bench_options,
        _bench,
        (
            "dwindle bench net.dwindle",
            "dwindle bench net.dwindle --device arm64",
        ),
    ),
    Command(
        "profile",
        "Measure how long layers take on a device, to predict and budget the latency of networks there.",
        _profile_options,
        _profile,
        ("dwindle profile host -o host.json",),
    ),
    Command(
        "report",
        "Write one self-contained HTML page about a checkpoint, or about several.",
        _report_options,
        _report,
        ("dwindle report net.dwindle -o report.html",),
    ),
    Command(
        "diff",
        "Compare two checkpoints: bytes, accuracy, latency, widths and options.",
        _diff_options,
        _diff,
    ),
    Command(
        "doctor",
        "List what is installed to work with, and the command that adds what isn't.",
        _doctor_options,
        _doctor,
        ("dwindle doctor --setup arm64",),
    ),
    Command(
        "demo",
        "Train, compress, export and measure a small network in a few minutes.",
        _demo_options,
        _demo,
    ),
)
