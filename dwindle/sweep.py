"""`dwindle sweep`: a compression for every combination of the options that a file lists."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tomlkit

from dwindle.errors import DwindleError, UsageError
from dwindle.files import read_toml
from dwindle.ray_cluster import as_finished

AXES = "sweep"
"""The table of a file whose keys are options and whose values are lists."""


@dataclass(frozen=True)
class Trial:
    """One compression of a sweep."""

    name: str
    """Its options that differ from those of the others, such as `size=50KB,seed=0`, as a file may be named."""
    options: dict[str, Any]
    """All its options, as a configuration file of `dwindle compress` has them."""


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    name: str
    path: Path
    """The checkpoint."""
    exit_code: int
    """That of `dwindle compress`."""
    said: str
    """The last line that it printed."""


def trials(file: Path) -> list[Trial]:
    """The trials of a file: the options outside its table `sweep`, with each combination of those in it.

        model = "zoo:resnet8"
        data = "digits"
        [sweep]
        size = ["20KB", "40KB"]
        seed = [0, 1, 2]

    Raises UsageError for a file that can't be read, that has no such table, or has anything but lists in it.
    """
    given = read_toml(file)
    axes = given.pop(AXES, None)
    if not isinstance(axes, dict) or not axes:
        raise UsageError(
            f'{file} has no table [{AXES}] of lists: name options in it, such as size = ["1MB", "2MB"]',
            code="missing-option",
            option="file",
            path=file,
        )
    for name, values in axes.items():
        if not isinstance(values, list) or not values or name in given:
            why = "is given outside of it too" if name in given else "is no list of values"
            raise UsageError(
                f"{file}: {name} in [{AXES}] {why}: give the list alone", code="invalid-value", option=name, path=file
            )
    if "out" in given or "out" in axes:
        raise UsageError(f"{file}: each trial has a folder of its own: leave out `out`", code="conflict", option="out")
    made = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    named = [Trial(",".join(_part(*each) for each in own.items()), {**given, **own}) for own in made]
    if len({trial.name for trial in named}) < len(named):
        raise UsageError(
            f"{file}: two trials of [{AXES}] are the same: give each value once", code="invalid-value", path=file
        )
    return named


def sweep(file: Path, out: Path, say: Callable[[str], None], jobs: int = 1, ray: str | None = None) -> list[Outcome]:
    """Runs the trials of a file, each to its end whatever becomes of the others; the outcomes in the trials' order.

    out: the folder for a checkpoint, a configuration file and a log of each. A sweep that is begun again resumes what
    was interrupted, and finds what is finished. jobs: how many run at once on a machine; they share its cores. ray: the
    address of a Ray cluster whose machines run them, as `dwindle.ray_cluster.as_finished` takes it; each must find the
    folder in the same place.
    Raises UsageError as `trials` does, and where there is no such cluster; nothing was run then.
    """
    listed = trials(file)
    out.mkdir(parents=True, exist_ok=True)
    where = Path.cwd()
    run = partial(_run, out=out.resolve(), threads=max(1, (os.cpu_count() or 1) // jobs), where=where)
    outcomes: dict[int, Outcome] = {}
    for place, found in _finished(run, listed, jobs, ray):
        trial = listed[place]
        lost = Outcome(trial.name, out / f"{trial.name}.dwindle", DwindleError.exit_code, str(found))
        outcome = replace(found, path=lost.path) if isinstance(found, Outcome) else lost
        say(f"{outcome.name}: {outcome.said}")
        outcomes[place] = outcome
    return [outcomes[place] for place in range(len(listed))]


def _finished(
    run: Callable[[Trial], Outcome], listed: list[Trial], jobs: int, ray: str | None
) -> Iterator[tuple[int, Outcome | str]]:
    if ray is not None:
        yield from as_finished(run, listed, ray, cpus=max(1, (os.cpu_count() or 1) // jobs))
        return
    with ThreadPoolExecutor(jobs) as workers:
        places = {workers.submit(run, trial): place for place, trial in enumerate(listed)}
        yield from ((places[done], done.result()) for done in as_completed(places))


def _run(trial: Trial, *, out: Path, threads: int, where: Path) -> Outcome:
    """Runs a trial in a process of its own, by paths as seen from the folder `where`."""
    config, path, log = (out / f"{trial.name}{end}" for end in (".toml", ".dwindle", ".log"))
    config.write_text(tomlkit.dumps(trial.options), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "dwindle", "compress", f"--config={config}", "-o", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("w", encoding="utf-8") as printed:
        done = subprocess.run(
            command, stdout=printed, stderr=subprocess.STDOUT, env=environment, check=False, cwd=where
        )
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return Outcome(trial.name, path, done.returncode, lines[-1] if lines else "it printed nothing")


def finished(outcomes: list[Outcome]) -> Iterator[Path]:
    """The checkpoints of the trials that came to their end."""
    return (each.path for each in outcomes if not each.exit_code)


def _part(name: str, value: Any) -> str:
    return re.sub(r"[^\w.=+-]", "-", f"{name}={value}")
