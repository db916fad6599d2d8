"""Times many small files on a device, a few at a time in turns, beside one that shows whether the device slows down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dwindle.bench.prices.profile import CPU_TIME, WALL_TIME
from dwindle.bench.process import PATIENCE, Slice, Worker
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import RuntimeUnavailable
from dwindle.quantities import format_left

TOGETHER = 3
"""Files that take turns beside the reference: few, as a device changes its speed from one second to the next."""
TURNS = 41
"""Slices of each file."""
SLICE_SECONDS = 0.01
"""How long a slice's inferences take together, or the one inference that is longer than this."""
MOST_DRIFT, PARTS = 0.25, 3
"""A device on which the reference takes so much longer in one of so many parts of the run than in another is not
profiled: what changes within a turn or two cancels out, a device that becomes hot does not."""
SAYS = 20.0
"""Seconds between two sentences about how far it is."""
File = tuple[Path, list[np.ndarray]]


@dataclass(frozen=True)
class Times:
    """What was measured."""

    ms: list[float]
    """Milliseconds of one inference of each file, as long as the device had the speed that it had in the middle."""
    drift: float
    """How much longer the reference took in the slowest third of the run than in the fastest, as a share."""
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
    """Times each file: the median over the turns of what it took over what the reference took in the same turn.

    Raises RuntimeUnavailable where the reference shows that the device's speed changes, WorkerFailed where a file can't
    be run there.
    """
    beside: list[float] = []
    over: list[float] = []
    began, next_said = time.monotonic(), 0.0
    with _started([reference], launcher, threads) as ([worker], version):
        for start in range(0, len(files), TOGETHER):
            if (spent := time.monotonic() - began) >= next_said:
                progress(f"{where}: {start} of {len(files)} files timed{format_left(spent, start, len(files))}")
                next_said = spent + SAYS
            with _started(files[start : start + TOGETHER], launcher, threads) as (own, _):
                turns, clock = _turns([worker, *own])
            beside += list(turns[:, 0])
            over += list(np.median(turns[:, 1:] / turns[:, :1], axis=0))
    parts = [float(np.median(part)) for part in np.array_split(np.array(beside), PARTS)]
    drift = max(parts) / min(parts) - 1
    if drift > MOST_DRIFT:
        raise RuntimeUnavailable(
            f"{where} does not keep its speed: one layer took {min(parts):.3g} to {max(parts):.3g} ms while it was "
            "profiled, as on a device that throttles or that others use; let it cool and idle, and profile it again",
            code="throttled",
            name=where,
        )
    usual = float(np.median(beside))
    return Times([ratio * usual for ratio in over], drift, clock, version)


@contextmanager
def _started(files: Sequence[File], launcher: Launcher, threads: int) -> Iterator[tuple[list[Worker], str]]:
    """Processes that have a file loaded each, all started before the first is waited for; and the runtime's version."""
    with ExitStack() as stack:
        workers = []
        for path, _ in files:
            launch = launcher.launch(path, threads)
            worker = Worker(launcher.name, path, threads, launch.patience or PATIENCE, launch.command)
            workers.append(stack.enter_context(worker))
        versions = [worker.load(sample).version for worker, (_, sample) in zip(workers, files, strict=True)]
        yield workers, versions[0]


def _turns(workers: Sequence[Worker]) -> tuple[np.ndarray, str]:
    """Milliseconds of each file in each turn (TURNS × files), and by which clock."""
    ms, clock = np.empty((TURNS, len(workers))), ""
    paces = [max(float(worker.time(2).wall_ns[-1]) / 1e9, 1e-7) for worker in workers]
    for turn in range(TURNS):
        for place, worker in enumerate(workers):
            piece = worker.time(max(1, round(SLICE_SECONDS / paces[place])))
            paces[place] = max(float(np.median(piece.wall_ns)) / 1e9, 1e-7)
            ms[turn, place], clock = _median(piece)
    return ms, clock


def _median(piece: Slice) -> tuple[float, str]:
    if piece.cpu_ns is not None and piece.cpu_ns.any():
        return float(np.median(piece.cpu_ns)) / 1e6, CPU_TIME
    return float(np.median(piece.wall_ns)) / 1e6, WALL_TIME
