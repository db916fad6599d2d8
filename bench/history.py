"""A gate's history: a line of JSON per run. Growth is counted from the usual figures where there is no baseline."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, stdev

import dwindle
from dwindle.bench.baseline import Baseline
from dwindle.documents import parse
from dwindle.errors import DwindleError

SCHEMA = 1
LAST = 10
"""How many runs the usual figure is the median of, the newest ones."""
LEAST = 3
"""With fewer runs there is nothing usual yet."""
STEADY = 0.001
"""The least standard deviation of a size, as a share of its median: builds that are alike have none of their own."""
_REMEDY = "restore the file, or begin another one"
_COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA")
"""Where GitHub and GitLab say which commit a job is about."""


@dataclass(frozen=True)
class Entry:
    """One run of the gate."""

    schema: int
    made: str
    """When, in UTC, as ISO 8601 has it."""
    commit: str | None
    """The commit that was checked out; None where none was."""
    dwindle: str
    """The version of dwindle."""
    passed: bool
    """Whether every limit held. A run that missed one doesn't count as usual."""
    figures: dict[str, dict[str, float]]
    """By what was checked, such as `net.onnx` or `net.dwindle as onnx`: `size` in bytes, `cost` in instructions."""


def read_history(path: Path) -> list[Entry]:
    """The runs that a file holds, the oldest first; none where there is no such file.

    Raises DwindleError where it can't be read, has a damaged line, or is of a newer dwindle.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise DwindleError(f"cannot read the history {path}: {error}", code="unreadable", path=path) from error
    return [_entry(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _entry(path: Path, number: int, line: str) -> Entry:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = f"line {number} of the history {path} is damaged: {_REMEDY}"
        raise DwindleError(message, code="damaged", path=path) from error
    if isinstance(document, dict) and isinstance(document.get("schema"), int) and document["schema"] > SCHEMA:
        message = f"the history {path} was written by a newer dwindle (line {number}): install that one"
        raise DwindleError(message, code="newer", path=path)
    found: Entry = parse(Entry, document, path, _REMEDY)
    return found


def usual(entries: Sequence[Entry], subject: str, target: str) -> Baseline | None:
    """The medians of the last runs that passed, as a baseline for `target`; None where they are too few."""
    known = [entry.figures[subject] for entry in entries if entry.passed and subject in entry.figures][-LAST:]
    sizes, costs = ([one[name] for one in known if name in one] for name in ("size", "cost"))
    if len(sizes) < LEAST:
        return None
    cost = {target: median(costs)} if len(costs) >= LEAST else {}
    return Baseline({target: round(median(sizes))}, cost, deviation={target: max(stdev(sizes), STEADY * median(sizes))})


def append(path: Path, figures: Mapping[str, Mapping[str, float]], *, passed: bool) -> Entry:
    """Adds a run to a history, which is made where there is none. Two jobs that do so at once lose nothing.

    Raises DwindleError where the file can't be written.
    """
    made = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(
        SCHEMA, made, _commit(), dwindle.__version__, passed, {name: dict(one) for name, one in figures.items()}
    )
    line = json.dumps(asdict(entry), allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as handle:
            _lock(handle.fileno())
            end = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, end - 1))
            cut = end and handle.read(1) != b"\n"  # a line that a crash cut short ends here
            handle.write((b"\n" if cut else b"") + line.encode())
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise DwindleError(f"cannot write {path}: {error.strerror}", code="unwritable", path=path) from error
    return entry


def _lock(handle: int) -> None:
    """Waits for other jobs. Where there are no such locks, a line is written by one call all the same."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _commit() -> str | None:
    for name in _COMMITS:
        if found := os.environ.get(name):
            return found
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
