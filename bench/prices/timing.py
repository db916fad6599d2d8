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
    found: list[float] = []
    beside: list[float] = []
    version = clock = ""
    for start in range(0, len(files), TOGETHER):
        some = [reference, *files[start : start + TOGETHER]]
        progress(f"{where}: {start} of {len(files)} files timed")
        with ExitStack() as stack:
            workers = []
            for path, sample in some:
                launch = launcher.launch(path, threads)
                patience = launch.patience or PATIENCE
                worker = stack.enter_context(Worker(launcher.name, path, threads, patience, launch.command))
                version = worker.load(sample).version
                workers.append(worker)
            own, clock = _least(workers)
        beside.append(own[0])
        found += [ms / own[0] for ms in own[1:]]
    drift = max(beside) / min(beside) - 1
    if drift > MOST_DRIFT:
        raise RuntimeUnavailable(
            f"{where} does not keep its speed: one layer took {min(beside):.3g} to {max(beside):.3g} ms while it was "
            "profiled, as on a device that throttles or that others use; let it cool and idle, and profile it again",
            code="throttled",
            name=where,
        )
    middle = statistics.median(beside)
    return Times([ratio * middle for ratio in found], drift, clock, version)


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
