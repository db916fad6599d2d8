"""The verb `bench`: from exported files to figures, each measured on the very file."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import dwindle
from dwindle.bench.baseline import network
from dwindle.bench.cost import earlier
from dwindle.bench.devices.device import Device
from dwindle.bench.devices.registry import reach, require_options
from dwindle.bench.machine import this_machine
from dwindle.bench.prices.exported import predictions
from dwindle.bench.prices.predicting import found as found_profile
from dwindle.bench.result import COMPRESSED, DENSE, HOST, Bench
from dwindle.bench.run import Progress, Run
from dwindle.bench.runtimes.torch import compiled_anew
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.files import require_writable
from dwindle.manifest import manifests

if TYPE_CHECKING:
    from dwindle.models.trust import Trust

_log = logging.getLogger(__name__)
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
    data: str | None = None,
    on: str | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Measures size, accuracy and latency of every exported file, compressed and dense, and saves bench.json.

        >>> measured = bench("net.dwindle", devices=["host", "arm64"])
        >>> [(row.artifact.path, row.accuracy.value) for row in measured.rows if row.accuracy]

    Args:
        checkpoint: an opened checkpoint, or its path.
        devices: where to measure, by names such as `host`, `arm64`, `browser:4` or `ssh://pi@board`;
            `dwindle bench --help` lists them all. What an earlier bench of the same files found on others is kept.
        sparse: count ExecuTorch files with XNNPACK's sparse kernels too, on `arm64`.
        profile: add the time of each operator of the compressed files, on `host`.
        threads: how many threads one inference may use, 1 or more.
        seed: fixes the order of turns and the bootstrap.
        trust: the specs (`package.module:factory`) of code that the checkpoint may name and have run, or True for any.
            Data sets and folders need no trust.
        data: where the checkpoint's data lies now, if not where it was; it must be the same.
        on: a profile, by its file or the name of one that comes with dwindle: what it predicts of each file stands in
            `Bench.predicted`, beside what was measured if its device is among the devices.
        progress: called with a line that says what is being measured; by default it is logged through `logging`.

    A runtime that isn't here, or dies, leaves its figures None with the reason in `Row.reasons`; the others go on.

    Raises UsageError where nothing is exported, for an unknown device or profile, and for options that have no effect;
    CheckpointError for a file that its manifest does not describe; RuntimeUnavailable where a device can't be reached
    or isn't set up.
    """
    from dwindle.models.tasks import restore_task

    reached = _reached(devices)
    require_options(reached, sparse=sparse, profile=profile)
    predicting = found_profile(on) if on is not None else None
    _require_threads(threads, reached)
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.load(checkpoint)
    exported = manifests(opened.exports)
    if not exported:
        raise UsageError(
            f"{opened.path} has no exported files: run `dwindle export {shlex.quote(str(opened.path))}` first",
            code="no-exports",
            path=opened.path,
        )
    require_writable(opened.bench_path)
    run = Run(
        root=opened.path,
        exported=exported,
        network=network(opened),
        network_macs=_macs(opened),
        task=restore_task(opened, trust, data),
        threads=threads,
        seed=seed,
        sparse=sparse,
        profile=profile,
        progress=progress or _log.info,
        keep=lambda found: found.save(opened.bench_path),
    )
    with ExitStack() as connected:
        connected.enter_context(compiled_anew())
        for device in reached:  # before anything else, which may take minutes
            connected.enter_context(device)
        found = _before(opened, run)
        for device in reached:
            found = device.measure(run, found)
            run.keep(found)
    if on is not None and predicting:
        found = replace(found, predicted=predictions(found, exported, predicting, on))
        run.keep(found)
    return found


def _reached(names: Iterable[str]) -> list[Device]:
    """The devices of these names, each once, this machine first, since others add to its rows."""
    devices = {device.url: device for device in map(reach, names)}
    return sorted(devices.values(), key=lambda device: device.url != HOST)


def _before(opened: Checkpoint, run: Run) -> Bench:
    """The rows of an earlier bench for the files that are there now, or blank ones; this machine's come first."""
    measured, rows = earlier(opened, run.exported)
    here = [row for row in rows if not row.runtime.device]
    others = [row for row in rows if row.runtime.device]
    if measured and any(row.latency for row in here):  # what it says of the machine and the time belongs to its figures
        return replace(measured, rows=(*here, *others), predicted=())
    made = datetime.now(UTC).isoformat("T", "seconds")
    return Bench((*here, *others), this_machine(), run.seed, made, dwindle.__version__, run.network)


def _require_threads(threads: int, devices: Sequence[Device]) -> None:
    """Raises UsageError for a number of threads that no device has; how many one elsewhere has isn't known yet."""
    if threads < 1:
        raise UsageError(f"`threads` is {threads}: give 1 or more", code="out-of-range", option="threads")
    if threads > _MOST_THREADS:
        raise UsageError(
            f"`threads` is {threads}, more than any device has cores: give {_MOST_THREADS} at most",
            code="out-of-range",
            option="threads",
        )
    for device in devices:
        device.require_threads(threads)


def _macs(opened: Checkpoint) -> dict[str, int | None]:
    """The network's multiply-accumulates before the first round and after the last."""
    rounds = opened.history
    return {DENSE: rounds[0].macs, COMPRESSED: rounds[-1].macs} if rounds else {}
