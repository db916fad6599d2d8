"""The command line. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dwindle import crash, missing, streams
from dwindle.errors import BudgetMissed, DwindleError, RuntimeUnavailable, UsageError
from dwindle.foreign import console, printable, single_line
from dwindle.grammar import BEGIN, Grammar
from dwindle.options import as_flags, given

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dwindle.compress import Request

INTERRUPTED = 130
RANK = os.environ.get("RANK", "0")
"""The rank of this process among those that torchrun started; only the first prints."""
FIRST_RANK = RANK == "0"
UNLIMITED = 1000
"""The columns of a table in a file or a pipe: more than any has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    streams.protect()
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        _say(BEGIN)
        return UsageError.exit_code
    grammar = Grammar()
    try:
        arguments = grammar.parse(words)
    except DwindleError as error:
        print(f"dwindle: {single_line(str(error))}", file=sys.stderr)
        return error.exit_code
    try:
        return COMMANDS[arguments.command](arguments)
    except DwindleError as error:
        sentence = single_line(as_flags(str(error), grammar.flags(arguments.command)))
        print(f"dwindle: {sentence}" if FIRST_RANK else f"dwindle: rank {RANK}: {sentence}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (line := missing.line(error, arguments.command)) is None:
            print(f"dwindle: {crash.sentence(error)}", file=sys.stderr)
            return DwindleError.exit_code
        print(f"dwindle: {arguments.command} needs {error.name}, which is not installed: {line}", file=sys.stderr)
        return RuntimeUnavailable.exit_code
    except KeyboardInterrupt:
        hint = "; the same command resumes it" if arguments.command == "compress" else ""
        _say(f"\ndwindle: interrupted{hint}")
        return INTERRUPTED
    except Exception as error:
        print(f"dwindle: {crash.sentence(error)}", file=sys.stderr)
        return DwindleError.exit_code


def _compress(arguments: argparse.Namespace) -> int:
    from dwindle.compress import compress
    from dwindle.compress.progress import drawing
    from dwindle.live import loss_line
    from dwindle.tracking import tracker

    request = _request(arguments)
    trackers = [tracker(spec) for spec in arguments.track]
    with drawing(_stderr(), request.target) as watching:
        done = compress(request, arguments.out, watching, trackers)
    _print(arguments, _summary(done))
    if loss := loss_line(done.metrics, done.metric):
        _stderr().print(loss, soft_wrap=True)
    if arguments.json:
        _print_json(_facts(done))
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from dwindle.first_config import QUESTIONS, Question, answers, write_config

    def ask(question: Question) -> str:
        from rich.prompt import Prompt

        return Prompt.ask(question.asks, console=_stderr(), default=question.default or None) or ""

    asked = {question.option: getattr(arguments, question.option) for question in QUESTIONS}
    found = answers(asked, ask if sys.stdin.isatty() else None)
    write_config(found, arguments.out)
    _say(f"wrote {arguments.out}; now: dwindle plan --config {arguments.out}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from dwindle.schema import schema

    _print_json(schema(Grammar().commands["compress"]))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    streams.print_document(shtab.complete(Grammar().top, arguments.shell))
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from dwindle.compress import plan
    from dwindle.live import forecast_lines

    try:
        request = _request(arguments)
    except UsageError as error:
        if error.code != "no-budget":
            raise
        return _curve(arguments)
    with _working("building the network and its files, to see what a compression would do"):
        forecast = plan(request)
    _print(arguments, *forecast_lines(forecast))
    if arguments.json:
        _print_json(dataclasses.asdict(forecast))
    missed = any(not each.smaller for each in forecast.benefits if each.target == request.target)
    if missed:
        _say(f"warning: this granularity does not make the {request.target} file smaller; channels would")
    refused = next((each.exit_code for each in forecast.rehearsed if each.exit_code), 0)
    return refused or (BudgetMissed.exit_code if missed and arguments.strict else 0)


def _curve(arguments: argparse.Namespace) -> int:
    """What several budgets come to, where none is given."""
    from dwindle.compress import curve
    from dwindle.compress.request import request_of
    from dwindle.live import curve_table

    with _working("building the network and its files at several densities, as no budget is given"):
        forecasts = curve(request_of(arguments))
    _print(arguments, curve_table(forecasts))
    if arguments.json:
        _print_json([dataclasses.asdict(forecast) for forecast in forecasts])
    return next((each.exit_code for each in forecasts[0].rehearsed if each.exit_code), 0)


def _request(arguments: argparse.Namespace) -> Request:
    """Makes the request from the arguments, and checks it before anything starts."""
    from dwindle.compress.request import request_of
    from dwindle.compress.resolve import resolve

    request = request_of(arguments)
    resolve(request)
    return request


def _export(arguments: argparse.Namespace) -> int:
    from rich.text import Text

    from dwindle.export import ExportOptions, export
    from dwindle.export.snippet import require_language, snippet
    from dwindle.export.target import delegated

    options = ExportOptions(**given(arguments, ExportOptions))
    targets = delegated(_names(arguments.target), arguments.delegate)
    if arguments.snippet:
        require_language(arguments.snippet, targets)
    made = export(arguments.net, targets, options, trust=_trust(arguments), progress=_say)
    written = [(arguments.net / "exports" / each.target / each.file.name, each) for each in made]
    lines = [f"{path}  {each.file.bytes:,} bytes  {each.encoding}" for path, each in written]
    if arguments.snippet:
        _say("\n".join(lines))
        _print(arguments, *(Text(snippet(each, arguments.snippet)) for each in made))
    else:
        _print(arguments, *lines)
    if arguments.json:
        _print_json([dataclasses.asdict(manifest) for manifest in made])
    return 0


def _trust(arguments: argparse.Namespace) -> bool | list[str]:
    """The code that the checkpoint may run: the specs that the command line names too, or any."""
    named = [spec for spec in (arguments.model, arguments.task) if spec is not None]
    return True if arguments.trust else named


def _bench(arguments: argparse.Namespace) -> int:
    from dwindle.bench import bench
    from dwindle.bench.devices.registry import reach
    from dwindle.bench.views.summary import bench_summary
    from dwindle.bench.views.table import bench_table
    from dwindle.checkpoint import Checkpoint
    from dwindle.origin import goal

    devices = _names(arguments.device)
    measured = bench(
        arguments.net,
        devices=devices,
        sparse=arguments.sparse,
        profile=arguments.profile,
        threads=arguments.threads,
        trust=_trust(arguments),
        data=arguments.data,
        progress=_say,
    )
    details = [bench_table(measured)] if arguments.verbose else []
    made_for = goal(Checkpoint.load(arguments.net).origin)
    _print(arguments, bench_summary(measured.rows, made_for, str(arguments.net)), *details)
    if arguments.json:
        _print_json(dataclasses.asdict(measured))
    for name in devices:
        if wrong := reach(name).failure(measured):
            raise wrong
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from dwindle.bench import gate
    from dwindle.bench.budget_file import write_budget
    from dwindle.bench.history import append, read_history
    from dwindle.bench.limits import KINDS
    from dwindle.bench.part import write_part
    from dwindle.bench.ratchet import lower_limits, require_limits_file
    from dwindle.bench.views.badge import write_badge
    from dwindle.bench.views.junit import write_junit
    from dwindle.bench.views.markdown import append_markdown, append_text
    from dwindle.bench.views.table import gate_table
    from dwindle.bench.views.trend import write_trend
    from dwindle.bench.views.why import why_markdown, why_table
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
        why=arguments.why or arguments.init is not None,
        download=arguments.part is not None,
        **{name: getattr(arguments, name) for name in KINDS},
    )
    _print(arguments, gate_table(verdict))
    if arguments.why:
        _print(arguments, why_table(verdict.files, verdict.before))
    for note in verdict.notes:
        _say(f"note: {note}")
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
    if arguments.junit:
        write_junit(verdict, name, arguments.junit)
    if arguments.markdown:
        append_markdown(verdict, name, arguments.markdown)
        if arguments.why:
            append_text(why_markdown(verdict.files, verdict.before), arguments.markdown)
    if arguments.part:
        write_part(arguments.part, verdict)
    if arguments.badge:
        write_badge(arguments.badge, verdict)
    if updated:
        given = [name for name in KINDS if getattr(arguments, name) is not None]
        for one in lower_limits(updated, verdict, but=given):
            _say(f"{updated}, [{one.table}]: {one.name} lowered from {one.before:,.0f} to {one.now:,}")
    if arguments.history:
        append(arguments.history, verdict.figures, passed=verdict.passed)
    if arguments.page:
        write_trend(arguments.page, read_history(arguments.history), verdict)
    if arguments.init:
        write_budget(arguments.init, verdict.figures, verdict.subjects)
    if arguments.json:
        _print_json({"passed": verdict.passed, "exit_code": verdict.exit_code, **dataclasses.asdict(verdict)})
    return verdict.exit_code


def _diff(arguments: argparse.Namespace) -> int:
    from dwindle.bench import diff
    from dwindle.bench.views.diff_table import diff_table

    found = diff(arguments.before, arguments.after)
    _print(arguments, diff_table(found))
    if arguments.json:
        _print_json(dataclasses.asdict(found))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from dwindle.bench import frontier_report, report

    first, *others = arguments.nets
    out = frontier_report(arguments.nets, arguments.out or "frontier.html") if others else report(first, arguments.out)
    _say(f"wrote {out}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from dwindle.checkpoint import Checkpoint
    from dwindle.compress.progress import rounds_table
    from dwindle.layers import layers
    from dwindle.live import layers_table
    from dwindle.origin import command_line
    from dwindle.shipped import shipped, shipped_table

    found = Checkpoint.load(arguments.net).require_figures()
    exports, damaged = shipped(found.exports)
    if arguments.json:
        listed = [dataclasses.asdict(export) for export in exports]
        made_by = command_line(found.origin, found.path.name)
        _print_json({**_facts(found), "command": made_by, "exports": listed, "damaged_exports": damaged})
        return 0
    page: list[RenderableType] = [rounds_table(found.history, found.origin["target"], metric=found.metric)]
    if left := layers(found):
        page.append(layers_table(left))
    if (found.path / "amc").exists():
        from dwindle.compress.amc.allocate import allocation
        from dwindle.compress.amc.view import result_view

        if searched := allocation(found.path):
            page.append(result_view(searched))
    if found.signature:
        page.append(f"takes and gives: {found.signature}")
    for uncut in found.uncut:
        page.append(f"kept whole: {uncut.channels} of {uncut.of} channels of {uncut.layer}, {uncut.reason}")
    if exports:
        page.append(shipped_table(exports))
    for export in exports:
        if export.unproven:
            page.append(f"unproven: {export.path.parent.name}/{export.path.name}: {export.unproven}")
        if export.widened:
            page.append(f"tolerance: {export.path.parent.name}/{export.path.name}: {export.widened}")
        if export.consumers:
            read = "; ".join(map(str, export.consumers))
            page.append(f"read by: {export.path.parent.name}/{export.path.name}: {read}")
    for sentence in (*damaged, *(line for export in exports for line in export.altered)):
        page.append(f"warning: {sentence}")
    page.append(f"made by: {' '.join(command_line(found.origin, found.path.name))}")
    _print(arguments, *page, _summary(found))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from dwindle.verify import verify, verify_table

    found = verify(arguments.net, attested_by=arguments.attested_by, public_key=arguments.public_key)
    _print(arguments, verify_table(found))
    for note in found.notes:
        _say(f"note: {note}")
    if arguments.json:
        _print_json({"whole": found.whole, **dataclasses.asdict(found), "path": str(found.path)})
    return 0 if found.whole else DwindleError.exit_code


def _attest(arguments: argparse.Namespace) -> int:
    from dwindle.attest import attest

    written = [
        one
        for net in arguments.nets
        for one in attest(net, arguments.out, key=arguments.key, spdx_license=arguments.spdx_license)
    ]
    _print(arguments, *(str(path) for path in written))
    if arguments.json:
        _print_json([str(path) for path in written])
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from dwindle.card import card
    from dwindle.checkpoint import require_not_sealed
    from dwindle.files import staged

    text = card(arguments.net, spdx_license=arguments.spdx_license)
    if arguments.out is None:
        streams.print_document(text.rstrip("\n"))
        return 0
    require_not_sealed(arguments.out)
    with staged(arguments.out) as scratch:
        scratch.write_text(text, encoding="utf-8")
    _say(f"wrote {arguments.out}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from dwindle.bench import doctor

    if arguments.setup:
        where = doctor.setup(arguments.setup, _say)
        if arguments.json:
            _print_json({"device": arguments.setup, "path": where})
        return 0
    with _working("asking each runtime and device what it has"):
        findings = doctor.examine()
    _print(arguments, doctor.doctor_table(findings))
    if arguments.json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    if wrong := doctor.lacking(findings):
        raise wrong
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from dwindle.demo import demo

    return demo(arguments.out, _stderr())


def _summary(checkpoint: Any) -> str:
    from dwindle.metrics import named
    from dwindle.quantities import format_bytes

    if not checkpoint.done:
        return f"{checkpoint.path}: unfinished; run the same `dwindle compress` again to resume it"
    dense, last = checkpoint.history[0], checkpoint.history[-1]
    test, dense_test = checkpoint.metrics["test"], checkpoint.metrics["dense_test"]
    return (
        f"{checkpoint.path}: {format_bytes(dense.bytes)} → {format_bytes(last.bytes)} as "
        f"{checkpoint.origin['target']} ({dense.bytes / last.bytes:.1f}× smaller, {last.density:.1%} of the "
        f"weights), {named('test', checkpoint.metric)} {test:.2f} against {dense_test:.2f} dense"
    )


def _facts(checkpoint: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(checkpoint)
    del facts["model"], facts["task"]  # objects, which a command never has
    return {**facts, "path": str(checkpoint.path)}


def _stderr() -> Console:
    return console(quiet=not FIRST_RANK)


def _print(arguments: argparse.Namespace, *result: RenderableType) -> None:
    """Prints what a command found: on stdout, but with `--json`, whose document is alone there, on stderr.

    Lines are not wrapped, and a table is cut to the width of a terminal only where there is one, from 80 columns up.
    """
    page = console(quiet=not FIRST_RANK, stderr=arguments.json)
    page.width = max(page.width, 80) if page.is_terminal else UNLIMITED
    with page.capture() as captured:
        for each in result:
            page.print(each, soft_wrap=isinstance(each, str))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    if arguments.json and FIRST_RANK:
        print(text, file=sys.stderr)
    elif FIRST_RANK:
        try:
            streams.print_document(text)
        except DwindleError as error:  # the exit code stays that of the work
            _say(f"warning: {error}")


@contextlib.contextmanager
def _working(what: str) -> Iterator[None]:
    """Shows what is being done, while it is done, on a terminal."""
    with _stderr().status(f"{what} …"):
        yield


def _say(sentence: str) -> None:
    if FIRST_RANK:
        print(printable(sentence), file=sys.stderr)


def _print_json(document: Any) -> None:
    if FIRST_RANK:
        streams.print_document(json.dumps(document, indent=2, default=str))


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",")]


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "compress": _compress,
    "plan": _plan,
    "export": _export,
    "bench": _bench,
    "gate": _gate,
    "report": _report,
    "show": _show,
    "attest": _attest,
    "verify": _verify,
    "card": _card,
    "diff": _diff,
    "doctor": _doctor,
    "schema": _schema,
    "completion": _completion,
    "demo": _demo,
}
