"""Two runs that start at one instant on one output."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dwindle import checkpoint as store
from dwindle.errors import UsageError
from dwindle.lock import locked


@dataclass
class Raced:
    """What came of the trials."""

    trials: int = 0
    both: int = 0
    """In how many both held the lock, or neither did."""
    odd: int = 0
    """In how many the loser had anything but a usage error (exit code 2) that says another run is at work."""
    lost: int = 0
    """In how many the checkpoint wasn't the winner's."""


def raced(folder: Path, count: int) -> Raced:
    """Starts two runs on one path in `folder`, `count` times. Each holds it until the other has tried."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    runs = [context.Process(target=_run, args=(rank, folder, count, barrier, results)) for rank in (0, 1)]
    for run in runs:
        run.start()
    ends: dict[int, dict[int, str]] = {}
    for _ in range(2 * count):
        trial, rank, end = results.get()
        ends.setdefault(trial, {})[rank] = end
    for run in runs:
        run.join()
    found = Raced(trials=len(ends))
    for trial, by_rank in ends.items():
        winners = [rank for rank, end in by_rank.items() if end == "held"]
        found.both += len(winners) != 1
        found.odd += any(end not in ("held", "locked 2") for end in by_rank.values())
        if len(winners) == 1:
            origin = store.Checkpoint.load(folder / f"{trial}.dwindle").origin
            found.lost += origin != {"seed": winners[0]}
    return found


def _run(rank: int, folder: Path, count: int, barrier: Any, results: Any) -> None:
    for trial in range(count):
        path = folder / f"{trial}.dwindle"
        barrier.wait()
        instant = time.monotonic() + 0.002
        while time.monotonic() < instant:  # both processes leave the barrier within less than that
            pass
        try:
            with locked(path):
                store.start(path, {"seed": rank})
                results.put((trial, rank, "held"))
                barrier.wait()
        except UsageError as error:
            results.put((trial, rank, f"{error.code} {error.exit_code}"))
            barrier.wait()
        except BaseException as error:
            results.put((trial, rank, repr(error)))
            barrier.wait()
    os._exit(0)  # without the exit handlers of the process that it was forked from
