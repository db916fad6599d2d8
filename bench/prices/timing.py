"""Times many small files on a device, a few at a time in turns, beside one that shows whether the device slows down."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dwindle.bench.process import PATIENCE, Slice, Worker
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import RuntimeUnavailable

TOGETHER = 6
"""Files that take turns."""
TURNS = 7
"""Slices of each file."""
SLICE_SECONDS = 0.015
"""How long a slice's inferences take together, or the one inference that is longer than this."""
ODD, AGAIN = 0.1, 2
"""Files beside which the reference takes so much longer than usual are timed again, in new processes, at most so many
times: some processes compute the same file a third slower, all their life."""
MOST_DRIFT = 0.2
"""A device on which the reference becomes slower by more is not profiled."""
File = tuple[Path, list[np.ndarray]]


@dataclass(frozen=True)
class Times:
    """What was measured."""

    ms: list[float]
    """Milliseconds of one inference of each file, as long as the device had the speed that it had in the middle."""
    drift: float
    """How much longer the reference took at its slowest than at its fastest, as a share."""
    clock: str
    version: str
    """The runtime's."""


def times(
    files: Sequence[File],
    reference: File,
    launcher: Launcher,
    where: str,
    threads: int,
    progress: Callable[[str], None],
) -> Times:
    """Times each file: the least of the medians of its slices, over the reference's in the same turns.

    Raises RuntimeUnavailable where the reference shows that the device's speed changes, WorkerFailed where a file can't
    be run there.
    """
    groups = [files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    measured: list[_Group] = []
    for number, group in enumerate(groups):
        progress(f"{where}: {number * TOGETHER} of {len(files)} files timed")
        measured.append(_group(group, reference, launcher, threads))
    for _ in range(AGAIN):
        usual = statistics.median(one.reference for one in measured)
        odd = [number for number, one in enumerate(measured) if one.reference > (1 + ODD) * usual]
        for number in odd:
            progress(f"{where}: {len(groups[number])} files are timed again, as the reference was slower beside them")
            measured[number] = min(
                measured[number], _group(groups[number], reference, launcher, threads), key=lambda one: one.reference
            )
    beside = [one.reference for one in measured]
    drift = max(beside) / min(beside) - 1
    if drift > MOST_DRIFT:
        raise RuntimeUnavailable(
            f"{where} does not keep its speed: one layer took {min(beside):.3g} to {max(beside):.3g} ms while it was "
            "profiled, as on a device that throttles or that others use; let it cool and idle, and profile it again",
            code="throttled",
            name=where,
        )
    middle = statistics.median(beside)
    found = [ms / one.reference * middle for one in measured for ms in one.ms]
    return Times(found, drift, measured[0].clock, measured[0].version)


@dataclass(frozen=True)
class _Group:
    """What was measured of files that took turns."""

    reference: float
    """Milliseconds of the reference."""
    ms: list[float]
    clock: str
    version: str


def _group(files: Sequence[File], reference: File, launcher: Launcher, threads: int) -> _Group:
    version = ""
    with ExitStack() as stack:
        workers = []
        for path, sample in (reference, *files):
            launch = launcher.launch(path, threads)
            patience = launch.patience or PATIENCE
            worker = stack.enter_context(Worker(launcher.name, path, threads, patience, launch.command))
            version = worker.load(sample).version
            workers.append(worker)
        (first, *own), clock = _least(workers)
    return _Group(first, own, clock, version)


def _least(workers: Sequence[Worker]) -> tuple[list[float], str]:
    """Milliseconds by each worker, and by which clock."""
    paces = [max(float(worker.time(2).wall_ns[-1]) / 1e9, 1e-7) for worker in workers]
    least, clock = [float("inf")] * len(workers), ""
    for _ in range(TURNS):
        for place, worker in enumerate(workers):
            piece = worker.time(max(1, round(SLICE_SECONDS / paces[place])))
            paces[place] = max(float(np.median(piece.wall_ns)) / 1e9, 1e-7)
            ms, clock = _median(piece)
            least[place] = min(least[place], ms)
    return least, clock


def _median(piece: Slice) -> tuple[float, str]:
    if piece.cpu_ns is not None and piece.cpu_ns.any():
        return float(np.median(piece.cpu_ns)) / 1e6, "thread-CPU time"
    return float(np.median(piece.wall_ns)) / 1e6, "wall time"
