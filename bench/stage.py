"""The verb: from exported files to figures, each measured on the very file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dwindle
from dwindle.bench import cost
from dwindle.bench.baseline import network
from dwindle.bench.machine import this_machine
from dwindle.bench.profile import with_profile
from dwindle.bench.result import COMPRESSED, DENSE, Bench, Compare, Row, RuntimeUsed
from dwindle.bench.rows import blank_rows, unmeasured
from dwindle.bench.runtime import Progress, Runtime, all_runtimes, launch
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.manifest import Manifest, manifests
from dwindle.registry import unknown

if TYPE_CHECKING:
    import numpy as np

    from dwindle.bench.measure import Samples, Surroundings
    from dwindle.bench.process import Worker
    from dwindle.task import Task

HOST, ARM64 = DEVICES = ("host", "arm64")
THREADS = 1
Starts = dict[str, "Callable[[], Worker]"]
"""What starts a worker on each file, by its path in the checkpoint."""


def bench(
    checkpoint: Checkpoint | Path | str,
    *,
    devices: Sequence[str] = (HOST,),
    sparse: bool = False,
    profile: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bench:
    """Measures size, accuracy and latency of every exported file, compressed and dense, and saves bench.json.

    `devices` are `host`, which is this machine, and `arm64`, an emulated one that counts instructions instead
    of time; what an earlier bench of the same files found on the other one is kept. `sparse` counts ExecuTorch
    files with XNNPACK's sparse kernels too. `profile` adds the time of each operator of the compressed files on
    this machine. `seed` fixes the order of rounds and the bootstrap. `progress` is told what is being measured.
    A runtime that isn't here, or dies, leaves its figures None with the reason; the others go on. Raises
    UsageError where nothing is exported, CheckpointError for a file that isn't its manifest's,
    RuntimeUnavailable where the emulation is asked for and not set up.
    """
    from dwindle.models.tasks import restore_task

    for device in devices:
        if device not in DEVICES:
            raise UsageError(unknown("device", device, list(DEVICES)))
    if ARM64 in devices:
        cost.ready()
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    exported = manifests(opened.exports)
    if not exported:
        raise UsageError(f"{opened.path} has no exported files: run `dwindle export {opened.path}` first")
    run = _Run(restore_task(opened), seed, progress or (lambda line: None))
    before, rows = cost.earlier(opened, exported)
    made = datetime.now(UTC).isoformat("T", "seconds")
    result = Bench((), this_machine(), seed, made, dwindle.__version__, network(opened))
    if HOST in devices:
        rows = cost.carried(run.here(opened.path, exported), rows, opened.path)
        if profile:
            rows = with_profile(rows, opened.path, _sample(run.task), run.progress)
    elif before and any(row.latency for row in rows):
        result = before  # what it says of the machine and the time goes with the figures that stay
    result = replace(result, rows=tuple(rows))
    result.save(opened.bench_path)
    if ARM64 in devices:
        counting = cost.Counting(
            root=opened.path,
            sample=_sample(run.task),
            network_macs=_macs(opened),
            tolerances={manifest.target: manifest.parity.tolerance for _, manifest in exported},
            sparse=sparse,
            progress=run.progress,
        )
        costed = counting.filled(rows, lambda so_far: replace(result, rows=tuple(so_far)).save(opened.bench_path))
        result = replace(result, rows=tuple(costed))
    return result


def _macs(opened: Checkpoint) -> dict[str, int | None]:
    """The network's multiply-accumulates before the first round and after the last."""
    rounds = opened.history
    return {DENSE: rounds[0].macs, COMPRESSED: rounds[-1].macs} if rounds else {}


@dataclass(frozen=True)
class _Run:
    task: Task
    seed: int
    progress: Progress

    def here(self, root: Path, exported: list[tuple[Path, Manifest]]) -> list[Row]:
        """The rows of all files in all runtimes of this machine."""
        runtimes, rows = all_runtimes(), []
        for blank in blank_rows(root, exported):
            target = blank[0].target
            fitting = [runtime for runtime in runtimes if runtime.target == target]
            if not fitting:
                rows += [unmeasured(row, f"no runtime is registered for {target}") for row in blank]
            for runtime in fitting:
                rows += self.measured(runtime, root, blank)
        return rows

    def measured(self, runtime: Runtime, root: Path, blank: tuple[Row, ...]) -> list[Row]:
        """The rows of one target's files, filled in by one runtime."""
        from dwindle.bench.accuracy import with_accuracy
        from dwindle.bench.process import Worker

        rows = [replace(row, runtime=RuntimeUsed(runtime.name, None, THREADS)) for row in blank]
        if reason := runtime.unavailable():
            self.progress(f"{runtime.name}: not measured, {reason}")
            return [unmeasured(row, reason) for row in rows]
        self.progress(f"{runtime.name}: latency of {' and '.join(row.artifact.path for row in rows)}")
        starts: Starts = {}
        for index, row in enumerate(rows):
            file = root / row.artifact.path
            how = launch(runtime, file, THREADS)
            rows[index] = replace(row, runtime=replace(row.runtime, through=how.through))
            starts[row.artifact.path] = partial(Worker, runtime.name, file, THREADS, command=how.command)
        rows = self._with_latency(root, rows, starts)
        return with_accuracy(self.task, rows, starts, _sample(self.task), self.progress)

    def _with_latency(self, root: Path, rows: list[Row], starts: Starts) -> list[Row]:
        from dwindle.bench.measure import measure
        from dwindle.bench.process import WorkerFailed

        sample, failed = _sample(self.task), {}
        while live := [row.artifact.path for row in rows if row.artifact.path not in failed]:
            try:
                samples, surroundings = measure({path: starts[path] for path in live}, sample, seed=self.seed)
                break
            except WorkerFailed as error:  # without the culprit, then
                self.progress(str(error))
                failed[error.file.relative_to(root).as_posix()] = str(error)
        else:
            samples = {}
        dense = next(row.artifact.path for row in rows if row.role == DENSE)
        return [
            unmeasured(row, failed[row.artifact.path])
            if row.artifact.path in failed
            else _timed(row, samples, surroundings, dense, self.seed)
            for row in rows
        ]


def _timed(row: Row, samples: dict[str, Samples], surroundings: Surroundings, dense: str, seed: int) -> Row:
    from dwindle.bench.stats import ESTIMATOR, milliseconds, noise, paired_ratio

    own = samples[row.artifact.path]
    reasons = dict(row.reasons)
    latency, why = milliseconds(own)
    if why:
        reasons |= {"latency.median": why, "latency.p95": why}
    compare = None
    if row.role == DENSE:
        reasons["compare"] = "it is the baseline"
    elif dense not in samples:
        reasons["compare"] = "the dense file could not be timed beside it"
    else:
        compare = Compare(dense, *paired_ratio(own, samples[dense], seed=seed), ESTIMATOR)
    loaded = own.loaded[0]
    if loaded.memory_bytes is None:
        reasons["memory_bytes"] = "this system has no /proc/self/status to read the peak from"
    return replace(
        row,
        runtime=replace(row.runtime, version=loaded.version),
        latency=latency,
        compare=compare,
        memory_bytes=loaded.memory_bytes,
        noise=noise(own, surroundings),
        reasons=reasons,
    )


def _sample(task: Task) -> list[np.ndarray]:
    """One real test input where the task has them: zeros, say, would be slower or faster than any photo."""
    inputs = task.inputs("test") if hasattr(task, "inputs") else task.example_inputs()
    return [tensor[:1].detach().float().cpu().numpy() for tensor in inputs]
