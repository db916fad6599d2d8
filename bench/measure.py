"""Times several files at once, in turns, so that whatever disturbs one disturbs them all.

A round loads every file anew and then gives each a few slices of time in random order. Turns, because on
a shared machine anything else compares a file with the machine's mood. Anew, because where weights and
buffers happen to land in memory moves a file's speed by 1–2% for as long as it stays loaded: slices of
one load agree to 0.1% and are wrong together, so an interval must come from many loads.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dwindle.bench.process import Loaded, Slice, Worker

ROUNDS = 24
FEWEST_ROUNDS = 6
TURNS = 3
SLICE_SECONDS = 0.015
WARM_UP_SECONDS = 5.0
TOTAL_SECONDS = 60.0
"""Slow files get fewer rounds rather than a longer wait."""
STABLE = 0.02
"""Warm-up ends when the last three slices' medians lie this close together."""


@dataclass(frozen=True)
class Samples:
    """One file's inferences."""

    loaded: Loaded
    """Of the first load, in a process that had only imported the library."""
    wall: np.ndarray
    """Nanoseconds, shape (rounds, iterations)."""
    cpu: np.ndarray
    switches: int
    """How often the kernel took the CPU away."""


@dataclass(frozen=True)
class Surroundings:
    """What else the machine did meanwhile."""

    pressure: float | None
    """Share of the time in which some runnable task had no CPU (PSI); None where the kernel won't say."""
    load: float
    """The one-minute load average as the measurement ended: cores' worth of work that ran or waited."""


def measure(
    workers: Mapping[str, Worker], sample: list[np.ndarray], *, seed: int, rounds: int = ROUNDS
) -> tuple[dict[str, Samples], Surroundings]:
    """Times each worker's file on `sample` (one array per input); raises WorkerFailed if one dies."""
    loaded = {name: worker.load(sample) for name, worker in workers.items()}
    paces = {name: warm_up(worker) for name, worker in workers.items()}
    counts = {name: _iterations(pace) for name, pace in paces.items()}
    round_seconds = sum(loaded[name].load_ms / 1e3 + paces[name] * counts[name] * (TURNS + 1) for name in workers)
    rounds = min(rounds, max(FEWEST_ROUNDS, int(TOTAL_SECONDS / round_seconds)))

    order, shuffler = list(workers), random.Random(seed)
    slices: dict[str, list[list[Slice]]] = {name: [] for name in workers}
    stalled, started = _stalled_seconds(), time.monotonic()
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.load(sample)
            worker.time(counts[name])  # fills the caches; not counted
            slices[name].append([])
        for _ in range(TURNS):
            shuffler.shuffle(order)
            for name in order:
                slices[name][-1].append(workers[name].time(counts[name]))
    elapsed, stalled_after = time.monotonic() - started, _stalled_seconds()

    pressure = None if stalled is None or stalled_after is None else (stalled_after - stalled) / elapsed
    samples = {name: _samples(loaded[name], slices[name]) for name in workers}
    return samples, Surroundings(pressure, os.getloadavg()[0])


def warm_up(worker: Worker) -> float:
    """Runs a loaded file until three slices in a row agree, or for WARM_UP_SECONDS.

    Returns seconds per inference.
    """
    pace = float(worker.time(1).wall_ns[0]) / 1e9
    medians: list[float] = []
    started = time.monotonic()
    while time.monotonic() - started < WARM_UP_SECONDS:
        piece = worker.time(_iterations(pace))
        pace = statistics.median(piece.wall_ns.tolist()) / 1e9
        medians.append(statistics.median(piece.cpu_ns.tolist()))
        last = medians[-3:]
        if len(last) == 3 and max(last) <= min(last) * (1 + STABLE):
            break
    return pace


def _iterations(pace: float) -> int:
    return max(1, round(SLICE_SECONDS / max(pace, 1e-6)))


def _samples(loaded: Loaded, rounds: list[list[Slice]]) -> Samples:
    return Samples(
        loaded,
        np.stack([np.concatenate([piece.wall_ns for piece in pieces]) for pieces in rounds]),
        np.stack([np.concatenate([piece.cpu_ns for piece in pieces]) for pieces in rounds]),
        sum(piece.switches for pieces in rounds for piece in pieces),
    )


def _stalled_seconds() -> float | None:
    """Total of `some` in /proc/pressure/cpu (kernel Documentation/accounting/psi.rst)."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError):
        return None
