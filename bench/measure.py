"""Times several files at once, in turns, so that whatever disturbs one disturbs them all.

A round loads every file anew and then gives each a few slices of time in random order; after a few rounds
the processes are replaced. Turns, because on a shared machine anything else compares what the
machine was doing meanwhile. Anew, because where code, weights and buffers happen to land in memory moves a file's speed
by about 1% for as long as they lie there: slices of one load agree to 0.1% and are wrong together, so an
honest interval takes many loads and several processes.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from dwindle.bench.machine import Reading, busy_here
from dwindle.bench.process import Loaded, Slice, Worker

PROCESSES, FEWEST = 6, 3
STARTING_SECONDS = 20.0
"""Once starting processes has taken this long in all, FEWEST of them must suffice: importing torch takes seconds."""
LOADS = 4
"""Rounds in each process, at most: files that are slow to run or to load get fewer, so that nobody waits longer."""
TURNS = 3
"""Slices of every file in a round."""
SLICE_SECONDS = 0.015
"""How long a slice's inferences take together, or the one inference that is longer than this."""
LEAD_SECONDS = 0.005
"""How long a file runs before each slice without being timed, as its first milliseconds find caches full of the other
files and the CPU asleep. With them in the slice, MobileNetV2 appeared 10% slower beside its half-width form."""
TOTAL_SECONDS = 60.0
"""What all rounds together should not exceed."""
WARM_UP_SECONDS = 5.0
"""How long a file is run, at most, until it is timed."""
STABLE = 0.02
"""Warm-up ends when the last three slices' medians lie this close together."""


@dataclass(frozen=True)
class Samples:
    """The timed inferences of one file."""

    loaded: tuple[Loaded, ...]
    """What each process reported of its first load."""
    wall: np.ndarray
    """Nanoseconds, shape (processes, loads, iterations)."""
    cpu: np.ndarray | None
    """Thread-CPU time in the shape and unit of `wall`; None where there is no such clock."""
    switches: int
    """How often the kernel took the CPU from a thread while it was running."""
    waited: float | None = None
    """Nanoseconds in which the thread was ready to run and had no CPU, where that is known instead of `cpu`."""

    @property
    def own(self) -> np.ndarray:
        """The time on which other processes have the least influence: thread-CPU time where there is a clock of it."""
        return self.wall if self.cpu is None else self.cpu


@dataclass(frozen=True)
class Surroundings:
    """How busy the machine was while files were timed."""

    pressure: float | None
    """Share of the time in which some runnable task had no CPU (PSI); None where the kernel doesn't say."""
    load: float
    """The one-minute load average as the measurement ended: cores' worth of work that ran or waited."""


def measure(
    files: Mapping[str, Callable[[], Worker]],
    sample: list[np.ndarray],
    *,
    seed: int,
    busy: Callable[[], Reading] = busy_here,
) -> tuple[dict[str, Samples], Surroundings]:
    """Times several files side by side.

    Args:
        files: what starts a worker on each file, by any name.
        sample: what every file runs on: one array per input, a batch of one.
        seed: fixes the order of turns.
        busy: says how busy the machine is that the workers run on.

    Returns every file's samples by its name, and what else the machine did meanwhile. Raises WorkerFailed if a worker
    dies or refuses its file.
    """
    paces: dict[str, float] = {}
    loads, shuffler = LOADS, random.Random(seed)
    loaded: dict[str, list[Loaded]] = {name: [] for name in files}
    rounds: dict[str, list[list[Slice]]] = {name: [] for name in files}
    stalled, elapsed, starting = 0.0, 0.0, 0.0
    for generation in range(PROCESSES):
        if generation >= FEWEST and starting > STARTING_SECONDS:
            break
        with ExitStack() as stack:
            workers, called = {}, time.monotonic()
            for name, start in files.items():  # one after the other: starting is work too
                workers[name] = stack.enter_context(start())
                loaded[name].append(workers[name].load(sample))
            starting += time.monotonic() - called
            warm = {name: warm_up(worker) for name, worker in workers.items()}
            if not paces:
                paces = warm
                turns = (TURNS + 1) * sum(pace * (_iterations(pace) + _lead(pace)) for pace in paces.values())
                anew = sum(first.load_ms + first.first_ms for (first,) in loaded.values()) / 1e3
                loads = max(1, min(LOADS, int(TOTAL_SECONDS / PROCESSES / (turns + anew))))
            began, before = time.monotonic(), busy()
            for _ in range(loads):
                for name, pieces in _round(workers, sample, paces, shuffler).items():
                    rounds[name].append(pieces)
            elapsed += time.monotonic() - began
            after = busy()
            stalled += after.stalled - before.stalled
    pressure = None if math.isnan(stalled) else stalled / elapsed
    samples = {name: _samples(loaded[name], rounds[name]) for name in files}
    return samples, Surroundings(pressure, after.load)


def _round(
    workers: Mapping[str, Worker], sample: list[np.ndarray], paces: Mapping[str, float], shuffler: random.Random
) -> dict[str, list[Slice]]:
    for name, worker in workers.items():
        worker.load(sample)
        worker.time(_iterations(paces[name]))  # the first ones touch fresh memory; not counted
    slices: dict[str, list[Slice]] = {name: [] for name in workers}
    order = list(workers)
    for _ in range(TURNS):
        shuffler.shuffle(order)
        for name in order:
            workers[name].time(_lead(paces[name]))
            slices[name].append(workers[name].time(_iterations(paces[name])))
    return slices


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
        own = piece.wall_ns if piece.cpu_ns is None else piece.cpu_ns
        medians.append(statistics.median(own.tolist()))
        last = medians[-3:]
        if len(last) == 3 and max(last) <= min(last) * (1 + STABLE):
            break
    return pace


def _iterations(pace: float) -> int:
    return max(1, round(SLICE_SECONDS / max(pace, 1e-6)))


def _lead(pace: float) -> int:
    return math.ceil(LEAD_SECONDS / max(pace, 1e-6))


def _samples(loaded: list[Loaded], rounds: list[list[Slice]]) -> Samples:
    def shaped(parts: list[list[np.ndarray]]) -> np.ndarray:
        stacked = np.stack([np.concatenate(part) for part in parts])
        return stacked.reshape(len(loaded), -1, stacked.shape[-1])

    every = [piece for pieces in rounds for piece in pieces]
    cpu = [[piece.cpu_ns for piece in pieces if piece.cpu_ns is not None] for pieces in rounds]
    waited = [piece.waited_ns for piece in every if piece.waited_ns is not None]
    return Samples(
        loaded=tuple(loaded),
        wall=shaped([[piece.wall_ns for piece in pieces] for pieces in rounds]),
        cpu=shaped(cpu) if all(cpu) else None,
        switches=sum(piece.switches for piece in every),
        waited=float(sum(waited)) if waited else None,
    )
