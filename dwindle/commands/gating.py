"""What gate takes and does."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from dwindle.bench.limits import KINDS
from dwindle.commands.command import Command, json_option
from dwindle.errors import UsageError
from dwindle.options import as_flags
from dwindle.output import print_json, print_result, say


def _gate_options(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "files",
        metavar="NET.dwindle|FILE",
        nargs="*",
        type=Path,
        help="The checkpoints and model files (.onnx, .tflite, .mlpackage, .mlmodel, .pte, .pt2, .mnn) to check, or "
        "patterns of their names. Default: those that --limits names.",
    )
    limits = to.add_argument_group("limits (all that are given must hold)")
    flags = {name: f"--{name.replace('_', '-')}" for name in (*KINDS, "baseline", "history", "reference", "inputs")}
    for name, kind in KINDS.items():
        summary = as_flags(kind.help, flags).replace("%", "%%")
        limits.add_argument(flags[name], metavar=kind.metavar, help=f"{summary} Default: no limit.")
    limits.add_argument(
        "--limits",
        type=Path,
        metavar="FILE.toml",
        help="A TOML file with limits in a table [gate], [gate.TARGET], [gate.device.NAME], [gate.on.PROFILE] or "
        '[gate.file."NAME"]. Default: none.',
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
    json_option(to)


def _gate(arguments: argparse.Namespace) -> int:
    from dwindle.bench import gate
    from dwindle.bench.budget_file import write_budget
    from dwindle.bench.history import append, read_history
    from dwindle.bench.ratchet import lower_limits, require_limits_file
    from dwindle.bench.views.table import gate_table
    from dwindle.checkpoint import require_not_sealed
    from dwindle.quantities import format_names

    if arguments.page and not arguments.history:
        message = "`page` shows what `history` holds: give both"
        raise UsageError(message, code="incomplete", option="page", path=arguments.page)
    updated = require_limits_file(arguments.limits) if arguments.update else None
    verdict = gate(
        arguments.files,
        limits=arguments.limits,
        baseline=arguments.baseline,
        reference=arguments.reference,
        inputs=arguments.inputs,
        target=arguments.target,
        history=arguments.history,
        why=arguments.why or arguments.init is not None or arguments.page is not None,
        download=arguments.part is not None,
        **{name: getattr(arguments, name) for name in KINDS},
    )
    print_result(arguments, gate_table(verdict))
    if arguments.why:
        from dwindle.bench.views.why import why_table

        print_result(arguments, why_table(verdict.files, verdict.before))
    for note in verdict.notes:
        say(f"note: {note}")
    written = (
        arguments.junit,
        arguments.markdown,
        arguments.part,
        arguments.badge,
        arguments.history,
        arguments.page,
        arguments.init,
        updated,
    )
    for out in filter(None, written):
        require_not_sealed(out)
    name = format_names([path.name for path in arguments.files] or [arguments.limits.name])
    # What writes is imported where it is asked for, so that the verdict comes sooner.
    if arguments.junit:
        from dwindle.bench.views.junit import write_junit

        write_junit(verdict, name, arguments.junit)
    if arguments.markdown:
        from dwindle.bench.views.markdown import append_markdown, append_text
        from dwindle.bench.views.why import why_markdown

        append_markdown(verdict, name, arguments.markdown)
        if arguments.why:
            append_text(why_markdown(verdict.files, verdict.before), arguments.markdown)
    if arguments.part:
        from dwindle.bench.part import write_part

        write_part(arguments.part, verdict)
    if arguments.badge:
        from dwindle.bench.views.badge import write_badge

        write_badge(arguments.badge, verdict)
    if updated:
        given = [name for name in KINDS if getattr(arguments, name) is not None]
        for one in lower_limits(updated, verdict, but=given):
            say(f"{updated}, [{one.table}]: {one.name} lowered from {one.before:,.0f} to {one.now:,}")
    if arguments.history:
        append(arguments.history, verdict.figures, passed=verdict.passed)
    if arguments.page:
        from dwindle.bench.views.trend import write_trend

        write_trend(arguments.page, read_history(arguments.history), verdict)
    if arguments.init:
        write_budget(arguments.init, verdict.figures, verdict.subjects)
    if arguments.json:
        print_json({"passed": verdict.passed, "exit_code": verdict.exit_code, **dataclasses.asdict(verdict)})
    return verdict.exit_code


COMMANDS = (
    Command(
        "gate",
        "Check measured files, or any model files, against limits; exit with 3 where one is missed.",
        _gate_options,
        _gate,
        (
            "dwindle gate net.dwindle --max-size 2MB --max-drop 1",
            "dwindle gate model.onnx --baseline main/model.onnx --max-growth 2%",
        ),
    ),
)
