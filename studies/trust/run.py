"""Attacks what comes from elsewhere and what lies around, counts what holds, and writes results.md beside this file.

    python -m studies.trust.run [--quick]       # about ten minutes on one core; --quick: one

Every count is of the fuzzers in tests/fuzz, which CI runs with fewer cases.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

import dwindle
from studies.trust import gate, kills
from tests.fuzz import arrange, belongings, command_lines, documents, interruptions, races, ways

HERE = Path(__file__).parent
Row = tuple[str, int, int]
"""What was tried, how often, and how often it did not hold."""


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty working directory, in which nothing waits for the disk and nothing is printed."""
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
        mock.patch("os.fsync"),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        yield Path(name).resolve()


def code_from_a_checkpoint(quick: bool) -> Row:
    """Ways from a sent checkpoint or exported file to code that runs."""
    tried = succeeded = 0
    attempts: list[Callable[[], object]] = [
        *ways.CHECKPOINTS.values(),
        ways.pickled_weights,
        ways.script_in_the_report,
        *([] if quick else [ways.modules_beside_the_checkpoint]),
        *(lambda way=way: ways.reads_program(way) for way in ways.PROGRAMS),
    ]
    for attempt in attempts:
        with _folder():
            attempt()
            tried, succeeded = tried + 1, succeeded + ways.ran()
    return "ways from a sent checkpoint or file to code: code ran", tried, succeeded


def damaged_documents(quick: bool) -> Row:
    """Mutated documents and files, each read by a command."""
    outcome = documents.fuzzed(200 if quick else 5000, first=10_000)
    for fault in outcome.faults:
        print(fault, file=sys.stderr)
    return "mutated documents and files: no sentence, or no documented exit code", outcome.cases, len(outcome.faults)


def files_of_the_users(quick: bool) -> Row:
    """Arrangements of the user's own files, and the command that could lose them."""
    lost = 0
    with _folder() as folder:
        made = arrange.finished(folder / "finished").path, arrange.unfinished(folder / "unfinished").path
        for index, name in enumerate(belongings.ARRANGEMENTS):
            place = folder / str(index)
            place.mkdir()
            lost += bool(belongings.lost(place, name, *made))
    return "arrangements of the user's own files: a file was lost or changed", len(belongings.ARRANGEMENTS), lost


def interrupted(quick: bool, exchange: bool) -> Row:
    """Ctrl-C, once or twice, at random lines of a folder's replacement."""
    with _folder() as folder:
        counted = interruptions.interrupted_replacements(folder, 40 if quick else 800, exchange)
    how = "in one step" if exchange else "in two, as file systems without an exchange need"
    return f"interruptions of a folder's replacement {how}: something was lost", counted.interrupted, counted.lost


def one_instant(quick: bool) -> Row:
    """Two runs that start at one instant on one output."""
    with _folder() as folder:
        found = races.raced(folder, 30 if quick else 600)
    return "two starts at one instant: both or neither held the lock", found.trials, found.both + found.odd + found.lost


def wrong_passes(quick: bool) -> Row:
    """Damaged and forged documents, and what the gate says of them."""
    with contextlib.redirect_stdout(io.StringIO()):
        counts = gate.count(200 if quick else 3000)
    return (
        "forged documents at the gate: a wrong pass or a traceback",
        counts.cases,
        len(counts.wrong + counts.tracebacks),
    )


def wrong_command_lines(quick: bool) -> Row:
    """Command lines that can't be meant, made from the parser's own options."""
    lines = list(command_lines.wrong_lines())
    with _folder():
        amiss = sum(command_lines.refused(line) is not None for line in lines)
    return "wrong command lines: not refused in one line with exit code 2", len(lines), amiss


def killed_runs(quick: bool) -> Row:
    """SIGKILL in compressions of every kind, which the same command then resumes."""
    found = kills.counted(1 if quick else 8)
    for fault in found.faults:
        print(fault, file=sys.stderr)
    what = "kills of compressions, resumed: weights, masks, structure, metrics or `pinned` were others"
    return what, found.kills, len(found.faults)


STUDIES: tuple[Callable[[bool], Row], ...] = (
    code_from_a_checkpoint,
    files_of_the_users,
    lambda quick: interrupted(quick, True),
    lambda quick: interrupted(quick, False),
    one_instant,
    damaged_documents,
    wrong_passes,
    wrong_command_lines,
    killed_runs,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer of everything, printed only")
    quick = parser.parse_args().quick
    lines, failed = ["| tried | times | did not hold |", "|---|---|---|"], 0
    print(*lines, sep="\n", flush=True)
    for study in STUDIES:
        what, times, bad = study(quick)
        lines.append(f"| {what} | {times} | {bad} |")
        print(lines[-1], flush=True)
        failed += bad
    if not quick:
        made = (
            f"`python -m studies.trust.run`, dwindle {dwindle.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()} on {platform.system()}, {os.cpu_count()} cores."
        )
        (HERE / "results.md").write_text("\n".join(["# Trust, counted", "", made, "", *lines, ""]), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
