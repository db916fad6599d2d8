"""Where an inference spends its time, operator by operator, from the runtimes' own profilers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.result import COMPRESSED, Operator, Row
from dwindle.bench.run import Progress
from dwindle.bench.runtimes.runtime import all_runtimes

if TYPE_CHECKING:
    import numpy as np

SECONDS = 1.0
"""How long the inferences that are averaged take together."""
FEWEST, MOST = 5, 200
"""The fewest and the most inferences that are averaged."""


def with_profile(rows: list[Row], root: Path, sample: list[np.ndarray], progress: Progress) -> list[Row]:
    """Adds operators to the rows of compressed files that were timed, or the reason why there are none."""
    profilers = {runtime.name for runtime in all_runtimes() if runtime.profiles}
    found = []
    for row in rows:
        name = row.runtime.name or ""
        if row.role != COMPRESSED or row.latency is None:
            found.append(row)
            continue
        if name not in profilers:
            found.append(replace(row, reasons={**row.reasons, "operators": f"{name} has no profiler here"}))
            continue
        progress(f"{name}: operators of {row.artifact.path}")
        iterations = round(min(max(1000 * SECONDS / (row.latency.typical or row.latency.min), FEWEST), MOST))
        path = root / row.artifact.path
        try:
            # In Python, whatever ran before: these are the same kernels, and to read traces takes Python anyway.
            with Worker(name, path, row.runtime.threads) as worker:
                worker.load(sample)
                found.append(replace(row, operators=ranked(worker.profile(iterations))))
        except WorkerFailed as error:
            progress(str(error))
            found.append(replace(row, reasons={**row.reasons, "operators": str(error)}))
    return found


def ranked(timed: list[tuple[str, str, float, str]]) -> tuple[Operator, ...]:
    """Operators (name, kind, milliseconds, what ran it), the slowest first, with their shares."""
    total = sum(ms for _, _, ms, _ in timed) or 1.0
    operators = (Operator(name, kind, ms, ms / total, where) for name, kind, ms, where in timed)
    return tuple(sorted(operators, key=lambda operator: -operator.ms))
