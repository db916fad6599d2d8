"""The dense and the compressed file of one target, timed and judged by one runtime in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from dwindle.bench.accuracy import with_accuracy
from dwindle.bench.machine import Reading, busy_here
from dwindle.bench.measure import Samples, Surroundings, measure
from dwindle.bench.process import PATIENCE, Worker, WorkerFailed
from dwindle.bench.result import DENSE, Compare, Machine, Row, RuntimeUsed
from dwindle.bench.rows import failed, untried
from dwindle.bench.run import Run
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.bench.stats import estimator, milliseconds, noise, paired_ratio
from dwindle.errors import RuntimeUnavailable


@dataclass(frozen=True)
class Place:
    """Where files are measured; by default, this machine."""

    device: str | None = None
    """The device's name, as `--device` has it; None for this machine."""
    machine: Machine | None = None
    busy: Callable[[], Reading] = busy_here
    never_known: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of its rows is never known, by the figure's name in `Row.reasons`."""


Starts = dict[str, Callable[[], Worker]]
"""What starts a worker on each file, by the file's path in the checkpoint."""


def measured_pair(
    run: Run,
    launcher: Launcher,
    blank: tuple[Row, Row],
    place: Place,
    also: Callable[[Row, Worker], Row] = lambda row, worker: row,
) -> list[Row]:
    """The rows of one target's files, filled in by one runtime.

    Where something else than the runtime itself runs the files, they have no times. Where it can't run, or dies, every
    figure that is None has its reason. `also` adds to the row of a file what else its loaded worker reports.
    """
    used = RuntimeUsed(launcher.name, None, run.threads, device=place.device, machine=place.machine)
    never = place.never_known
    rows = [replace(row, runtime=used, reasons={**row.reasons, **never}, untried=tuple(never)) for row in blank]
    if missing := launcher.check():
        run.progress(f"{used.place}: not measured, {missing}")
        return [untried(row, str(missing)) for row in rows]
    stand_in = launcher.stand_in()
    if not stand_in:
        run.progress(f"{used.place}: latency of {' and '.join(row.artifact.path for row in rows)}")
    starts: Starts = {}
    try:
        for index, row in enumerate(rows):
            file = run.root / row.artifact.path
            how = launcher.launch(file, run.threads)
            rows[index] = replace(row, runtime=replace(used, through=how.through))
            starts[row.artifact.path] = partial(
                Worker, used.place, file, run.threads, how.patience or PATIENCE, command=how.command
            )
        if not stand_in:
            rows = _with_latency(run, rows, starts, place)
    except RuntimeUnavailable as error:  # a device that is gone
        run.progress(str(error))
        return [failed(row, str(error)) for row in rows]
    if stand_in:
        why = f"it was run by {stand_in}: only its answers mean something"
        untimed = dict.fromkeys(("latency", "compare", "memory_bytes", "noise"), why)
        rows = [replace(row, reasons=row.reasons | untimed, untried=(*row.untried, *untimed)) for row in rows]
    return with_accuracy(run.task, rows, starts, run.sample, run.progress, also, run.signature, run.preprocessing)


def _with_latency(run: Run, rows: list[Row], starts: Starts, place: Place) -> list[Row]:
    lost: dict[str, str] = {}
    while live := [row.artifact.path for row in rows if row.artifact.path not in lost]:
        try:
            living = {path: starts[path] for path in live}
            samples, surroundings = measure(living, run.sample, seed=run.seed, busy=place.busy)
            break
        except WorkerFailed as error:  # measured again without the file that failed
            run.progress(str(error))
            lost[error.file.relative_to(run.root).as_posix()] = str(error)
    else:
        samples = {}
    dense = next(row.artifact.path for row in rows if row.role == DENSE)
    return [
        failed(row, lost[row.artifact.path])
        if row.artifact.path in lost
        else _timed(row, samples, surroundings, dense, run.seed, place.machine.cores if place.machine else None)
        for row in rows
    ]


def _timed(
    row: Row, samples: dict[str, Samples], surroundings: Surroundings, dense: str, seed: int, cores: int | None
) -> Row:
    own = samples[row.artifact.path]
    reasons = dict(row.reasons)
    latency, missing = milliseconds(own, threads=row.runtime.threads, seed=seed)
    reasons |= missing
    compare = None
    if row.role == DENSE:
        reasons["compare"] = "it is the baseline"
    elif dense not in samples:
        reasons["compare"] = "the dense file could not be timed beside it"
    else:
        compare = Compare(dense, *paired_ratio(own, samples[dense], seed=seed), estimator(own))
    loaded = own.loaded[0]
    if loaded.memory_bytes is None:
        reasons.setdefault("memory_bytes", "this system has no /proc/self/status to read the peak from")
    return replace(
        row,
        runtime=replace(row.runtime, version=loaded.version),
        latency=latency,
        compare=compare,
        memory_bytes=loaded.memory_bytes,
        noise=noise(own, surroundings, cores),
        reasons=reasons,
    )
