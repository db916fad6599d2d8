"""SIGKILL at a change of the output folder, or at any moment, again and again; and what the run becomes in the end.

Every run is a process of its own, forked from one that has PyTorch loaded, so that a run of three trainings takes
seconds. Half of the kills come as a given change of the folder is seen (a file appears, grows, is renamed or
removed), the others after a random time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.compress import Request

if TYPE_CHECKING:
    from torch import nn

MODEL = f"{__name__}:small"
DIGITS = {"data": "digits", "epochs": 1, "batch_size": 256}
PRELOAD = ("dwindle.compress.compression", "dwindle.compress.surgery.find", "sklearn.datasets", "torch._dynamo")
"""The imports that take seconds."""
WEIGHTS = "dense.safetensors"
"""The file, beside the runs' folders, of the weights that a run begins with which trains nothing."""
IN_A_ROW = 3
"""How often one run is killed at most, before it is left to end."""
POLL = 0.001
"""Seconds between two looks at the folder."""


def small(num_classes: int) -> nn.Module:
    """A network of which all there is can be masked and cut, and that trains in no time."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32 * 16, num_classes),
    )


def _request(task: dict[str, Any] | None = None, **options: Any) -> Request:
    """Saves after every step."""
    common = {"target": "pytorch", "granularity": "unstructured", "align": 4, "rounds": 2, "save_every": 1e-9}
    common |= {"rehearsal": False}  # a kill is meant for the training
    return Request(MODEL, {**DIGITS, **(task or {})}, **{**common, **options})


RUNS = {
    "lr-rewind": _request(density=0.4),
    "weight-rewind": _request(density=0.4, method="weight-rewind", rewind_to=0.5),
    "gradual": _request(density=0.4, gradual=0.8),
    "averaged and recalibrated": _request({"ema": 0.9}, density=0.4, recalibrate=True),
    "channels": _request(granularity="channel", macs="50%"),
    "channels, weight-rewind": _request(granularity="channel", macs="50%", method="weight-rewind", rewind_to=0.5),
    "channels, then weights": _request(granularity="channel+unstructured", macs="60%", density=0.5, rounds=None),
    "max-drop": _request({"epochs": 2}, max_drop=3.0, prune_per_round=0.6, rounds=None),
    "max-drop, channels": _request(
        {"epochs": 2}, granularity="channel", max_drop=20.0, prune_per_round=0.5, rounds=None
    ),
    "calibrate": replace(_request(density=0.4, method="calibrate", rounds=None), task="digits"),
    "calibrate, channels": replace(
        _request(granularity="channel", macs="50%", method="calibrate", rounds=None), task="digits"
    ),
    "amc": _request(density=0.5, method="amc", episodes=3),
    "amc, channels": _request(granularity="channel", macs="50%", method="amc", episodes=3),
}
"""Kinds of run, by name."""


def available() -> list[str]:
    """The names of the runs whose packages are installed."""
    return [name for name in RUNS if _has_amc() or not name.startswith("amc")]


def _has_amc() -> bool:
    return find_spec("stable_baselines3") is not None


@dataclass
class Killed:
    """What came of one kind of run."""

    kills: int = 0
    runs: int = 0
    """How many came to their end and were compared; where every kill came too late, one that was not killed."""
    faults: list[str] = field(default_factory=list)
    """Of each run that failed, or ended otherwise than the uninterrupted one: what was different."""


def killed(folder: Path, name: str, kills: int, seed: int = 0) -> Killed:
    """Kills runs of one kind in `folder` until there were so many kills, and compares what each becomes in the end."""
    generator, counted = random.Random(f"{seed} {name}"), Killed()
    if RUNS[name].method == "calibrate":
        _train(folder / WEIGHTS)
    whole = _Run(name, folder / "uninterrupted")
    whole.end()
    expected = outcome(whole.out)
    while counted.kills < kills and len(counted.faults) < 3:
        run = _Run(name, folder / str(counted.runs))
        changes, seconds = whole.changes, whole.seconds
        for _ in range(min(IN_A_ROW, kills - counted.kills)):
            by_change = generator.random() < 0.5
            at = generator.randint(1, max(1, changes)) if by_change else None
            after = None if by_change else generator.uniform(0, seconds)
            if not run.kill(at, after):
                break
            counted.kills += 1
            changes, seconds = changes - run.changes, max(0.5, seconds - run.seconds)
        counted.runs += 1
        try:
            run.end()
            different = differences(expected, outcome(run.out))
        except Failed as error:
            different = [str(error)]
        counted.faults += [f"{name}, run {counted.runs}: {'; '.join(different)}"] if different else []
    return counted


class Failed(Exception):
    """A run ended by itself, and not well."""


class _Run:
    """A run that can be killed and started again."""

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.out = name, out
        self.changes, self.seconds = 0, 0.0
        """How many changes of the folder were seen of the last process, and how long it lived."""

    def end(self) -> None:
        """Runs to the end; raises Failed with the traceback where it doesn't get there."""
        process = self._watched(None, None)
        if process.exitcode != 0:
            raise Failed(f"exit {process.exitcode}: {self._log.read_text(encoding='utf-8')[-2000:]}")

    def kill(self, at: int | None, after: float | None) -> bool:
        """Runs until the change number `at`, or for `after` seconds; returns False where it ended before."""
        return self._watched(at, after).exitcode == -signal.SIGKILL

    def _watched(self, at: int | None, after: float | None) -> BaseProcess:
        process = _processes().Process(target=_compress, args=(self.name, self.out, self._log))
        before, self.changes, began = _looks(self.out), 0, time.monotonic()
        process.start()
        while process.exitcode is None:
            now = _looks(self.out)
            self.changes, before = self.changes + (now != before), now
            self.seconds = time.monotonic() - began
            if (at is not None and self.changes >= at) or (after is not None and self.seconds >= after):
                process.kill()
                process.join()
            time.sleep(POLL)
        return process

    @property
    def _log(self) -> Path:
        return self.out.with_suffix(".log")


def _processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "stable_baselines3"] if _has_amc() else list(PRELOAD))
    return context


def _compress(name: str, out: Path, log: Path) -> None:
    """What each process does.

    Bytes are counted without a target's packer: they follow from the weights, and to trace the network for it takes
    more time than all the rest.
    """
    import torch

    from dwindle.compress import compression

    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # type: ignore  # a kill cuts no power: what was written is there
    compression.Sizer = lambda target, inputs: _nonzero_bytes  # type: ignore
    os.environ["DWINDLE_BF16"] = "0"
    with log.open("w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        try:
            weights = out.parent / WEIGHTS
            compression.compress(replace(RUNS[name], weights=str(weights) if weights.exists() else None), out)
        except BaseException:
            traceback.print_exc()
            file.flush()
            os._exit(1)


def _train(weights: Path) -> None:
    """Writes the weights of a network that knows the digits somewhat, as what trains nothing needs."""
    import torch
    from safetensors.torch import save_file

    from dwindle.models.tasks import make_task

    torch.manual_seed(0)
    network = small(num_classes=10)
    make_task({**DIGITS, "epochs": 3}).fit(network, start=0.0, on_step=lambda loss: None)
    save_file(network.state_dict(), weights)


def _nonzero_bytes(model: nn.Module) -> int:
    return 4 * sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def _looks(folder: Path) -> dict[str, tuple[int, int, int]]:
    """The inode, size and time of every file and folder below."""
    found, folders = {}, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    state = entry.stat(follow_symlinks=False)
                    found[entry.path] = (state.st_ino, state.st_size, state.st_mtime_ns)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:  # it went while it was looked at
            continue
    return found


def outcome(path: Path) -> dict[str, Any]:
    """What must be equal: the names of all files, what the documents say but for durations, and all other bytes."""
    document = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    history = [{**record, "seconds": None} for record in document.pop("history")]
    del document["sha256"]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    same = [file for file in files if file.name not in ("checkpoint.json", "history.jsonl")]
    return {
        **document,
        "history": history,
        "names": [str(file.relative_to(path)) for file in files],
        **{str(file.relative_to(path)): sha256(file.read_bytes()).hexdigest() for file in same},
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What of `found` isn't as expected, in words; empty where all is."""
    return [
        f"{key} is {found.get(key)!r:.200} instead of {expected.get(key)!r:.200}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key) != found.get(key)
    ]
