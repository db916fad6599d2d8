"""The verb: from exported files to figures, each measured on the very file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import dwindle
from dwindle.bench import cost
from dwindle.bench.baseline import network
from dwindle.bench.devices.device import ARM64, LOCAL, reach
from dwindle.bench.machine import this_machine
from dwindle.bench.profile import with_profile
from dwindle.bench.result import COMPRESSED, DENSE, HOST, Bench, Compare, Row, RuntimeUsed
from dwindle.bench.rows import blank_rows, unmeasured
from dwindle.bench.runtime import (
    Device,
    Elsewhere,
    Particular,
    Progress,
    Replaced,
    Runtime,
    all_runtimes,
    launch,
    unreported,
)
from dwindle.bench.torch_runtimes import compiled_anew
from dwindle.checkpoint import Checkpoint
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.files import require_writable
from dwindle.manifest import Manifest, manifests

if TYPE_CHECKING:
    import numpy as np

    from dwindle.bench.measure import Samples, Surroundings
    from dwindle.bench.process import Worker
    from dwindle.models.trust import Trust
    from dwindle.task import Task

Starts = dict[str, "Callable[[], Worker]"]
"""What starts a worker on each file, by its path in the checkpoint."""
Asking = Callable[[Row, "Worker"], Row]
_MOST_THREADS = 1024
"""More than any device that runs these files has cores."""


def bench(
    checkpoint: Checkpoint | Path | str,
    *,
    devices: Sequence[str] = (HOST,),
    sparse: bool = False,
    profile: bool = False,
    threads: int = 1,
    seed: int = 0,
    trust: Trust = False,
    progress: Progress | None = None,
) -> Bench:
    """Measures size, accuracy and latency of every exported file, compressed and dense, and saves bench.json.

    `devices` are `host`, which is this machine, `arm64`, an emulated one that counts instructions instead of
    time, `cuda`, this machine's GPU, `browser`, a page in its Chromium (`browser:4` has its CPU throttled four times),
    `ssh://user@host[:port]`, any Linux machine that the user's ssh logs in to without asking, `adb://serial`, an
    Android device, `apple://mac` or `apple://NAME`, by Core ML on a Mac, and `qualcomm://NAME`, a phone of Qualcomm's
    AI Hub; what an earlier bench of the same files found on those not given is kept. `sparse` counts ExecuTorch
    files with XNNPACK's sparse kernels too. `profile` adds the time of each operator of the compressed files on
    this machine. `threads` is how many an inference may use. `seed` fixes the order of rounds and the bootstrap.
    `trust`: the checkpoint's own task may be code of anybody's; give the specs (`package.module:factory`) that may run,
    or True for any. Data sets and folders need no trust. `progress` is told what is being measured.
    A runtime that isn't here, or dies, leaves its figures None with the reason; the others go on. Raises
    UsageError where nothing is exported or `threads` are more than can be, CheckpointError for a file that isn't its
    manifest's, RuntimeUnavailable where the emulation is asked for and not set up, or a device can't be reached.
    """
    from dwindle.models.tasks import restore_task

    _check_threads(threads, devices)
    others = [reach(name) for name in dict.fromkeys(devices) if name not in LOCAL]
    if ARM64 in devices:
        cost.ready()
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    exported = manifests(opened.exports)
    if not exported:
        raise UsageError(
            f"{opened.path} has no exported files: run `dwindle export {shlex.quote(str(opened.path))}` first"
        )
    require_writable(opened.bench_path)
    run = _Run(restore_task(opened, trust), threads, seed, progress or (lambda line: None))
    with ExitStack() as connected:
        connected.enter_context(compiled_anew())
        for device in others:  # before anything else, which may take minutes
            connected.enter_context(device)
        before, rows = cost.earlier(opened, exported)
        elsewhere = [row for row in rows if row.runtime.device]
        rows = [row for row in rows if not row.runtime.device]
        made = datetime.now(UTC).isoformat("T", "seconds")
        result = Bench((), this_machine(), seed, made, dwindle.__version__, network(opened))
        if HOST in devices:
            rows = cost.carried(run.here(opened.path, exported), rows, opened.path)
            if profile:
                rows = with_profile(rows, opened.path, run.sample, run.progress)
        elif before and any(row.latency for row in rows):
            result = before  # what it says of the machine and the time goes with the figures that stay
        replace(result, rows=(*rows, *elsewhere)).save(opened.bench_path)
        for device in others:
            kept = [row for row in elsewhere if row.runtime.device != device.url]
            elsewhere = [*kept, *run.there(device, opened.path, exported)]
            replace(result, rows=(*rows, *elsewhere)).save(opened.bench_path)
    if ARM64 in devices:
        counting = cost.Counting(
            root=opened.path,
            sample=run.sample,
            network_macs=_macs(opened),
            tolerances={manifest.target: manifest.parity.tolerance for _, manifest in exported},
            sparse=sparse,
            progress=run.progress,
        )
        rows = counting.filled(rows, lambda found: replace(result, rows=(*found, *elsewhere)).save(opened.bench_path))
    return replace(result, rows=(*rows, *elsewhere))


def _check_threads(threads: int, devices: Sequence[str]) -> None:
    """Raises UsageError for a number of threads that no device has; how many one elsewhere has isn't known yet."""
    cores = os.cpu_count() or 1
    if threads < 1:
        raise UsageError(f"an inference takes one thread or more, not {threads}")
    if threads > _MOST_THREADS:
        raise UsageError(f"--threads {threads} is more than any device has cores: give {_MOST_THREADS} at most")
    if HOST in devices and threads > cores:
        raise UsageError(f"--threads {threads} is more than the {cores} cores of this machine: give {cores} at most")


def _macs(opened: Checkpoint) -> dict[str, int | None]:
    """The network's multiply-accumulates before the first round and after the last."""
    rounds = opened.history
    return {DENSE: rounds[0].macs, COMPRESSED: rounds[-1].macs} if rounds else {}


@dataclass(frozen=True)
class _Run:
    task: Task
    threads: int
    seed: int
    progress: Progress

    @cached_property
    def sample(self) -> list[np.ndarray]:
        from dwindle.bench.reference import samples

        return samples(self.task, 1)[0]

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

    def there(self, device: Device, root: Path, exported: list[tuple[Path, Manifest]]) -> list[Row]:
        """The rows of the files that a device's runtimes run, their outputs compared with those of this machine."""
        from dwindle.bench.reference import SAMPLES, Reference, samples

        tolerances = {manifest.target: manifest.parity.tolerance for _, manifest in exported}
        reference = Reference(root, samples(self.task, SAMPLES), tolerances)
        blanks, rows = {pair[0].target: pair for pair in blank_rows(root, exported)}, []
        for runtime in device.runtimes():
            blank, compared = blanks.get(runtime.target), reference.compared
            if isinstance(runtime, Particular):
                compared = partial(compared, within=runtime.tolerance)
                blank = blank if blank and runtime.concerns(root / blank[1].artifact.path) else None
            if blank:
                rows += self.measured(runtime, root, blank, compared)
        return rows

    def measured(
        self, runtime: Runtime | Elsewhere, root: Path, blank: tuple[Row, ...], also: Asking = lambda row, worker: row
    ) -> list[Row]:
        """The rows of one target's files, filled in by one runtime; without times, where something else runs them."""
        from dwindle.bench.accuracy import with_accuracy
        from dwindle.bench.process import PATIENCE, Worker

        device = runtime.device if isinstance(runtime, Elsewhere) else None
        used = RuntimeUsed(runtime.name, None, self.threads)
        if device:
            used = replace(used, device=device.url, machine=device.machine)
        rows = [replace(row, runtime=used, reasons={**row.reasons, **unreported(device)}) for row in blank]
        if reason := runtime.unavailable():
            self.progress(f"{used.place}: not measured, {reason}")
            return [unmeasured(row, reason) for row in rows]
        stand_in = runtime.stand_in() if isinstance(runtime, Replaced) else None
        if not stand_in:
            self.progress(f"{used.place}: latency of {' and '.join(row.artifact.path for row in rows)}")
        starts: Starts = {}
        try:
            for index, row in enumerate(rows):
                file = root / row.artifact.path
                how = launch(runtime, file, self.threads)
                rows[index] = replace(row, runtime=replace(used, through=how.through))
                starts[row.artifact.path] = partial(
                    Worker, used.place, file, self.threads, how.patience or PATIENCE, command=how.command
                )
            if not stand_in:
                rows = self._with_latency(root, rows, starts, device)
        except RuntimeUnavailable as error:  # a device that is gone
            self.progress(str(error))
            return [unmeasured(row, str(error)) for row in rows]
        if stand_in:
            why = f"it was run by {stand_in}: only its answers mean something"
            untimed = dict.fromkeys(("latency", "compare", "memory_bytes", "noise"), why)
            rows = [replace(row, reasons=row.reasons | untimed) for row in rows]
        return with_accuracy(self.task, rows, starts, self.sample, self.progress, also)

    def _with_latency(self, root: Path, rows: list[Row], starts: Starts, device: Device | None) -> list[Row]:
        from dwindle.bench.measure import here, measure
        from dwindle.bench.process import WorkerFailed

        failed: dict[str, str] = {}
        while live := [row.artifact.path for row in rows if row.artifact.path not in failed]:
            try:
                living = {path: starts[path] for path in live}
                samples, surroundings = measure(
                    living, self.sample, seed=self.seed, busy=device.busy if device else here
                )
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
            else _timed(row, samples, surroundings, dense, self.seed, device.machine.cores if device else None)
            for row in rows
        ]


def _timed(
    row: Row, samples: dict[str, Samples], surroundings: Surroundings, dense: str, seed: int, cores: int | None
) -> Row:
    from dwindle.bench.stats import estimator, milliseconds, noise, paired_ratio

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
