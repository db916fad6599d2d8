"""One trial of the comparison, by the product's own loop."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dwindle.compress import Request, compress
from dwindle.compress.recalibrate import recalibrate_by
from dwindle.compress.watcher import Watcher
from dwindle.models.build import ModelSpec, build
from dwindle.models.checked_task import CheckedTask
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.record import Round
from dwindle.task import Split
from studies.rewinding.grid import CONTROL, GRADUAL, Trial

TASK = "studies.rewinding.trial:task"


class Judged(ImageClassification):
    """Remembers the network that was judged last."""

    judged: nn.Module

    def evaluate(self, model: nn.Module, split: Split) -> float:
        self.judged = model
        return super().evaluate(model, split)


MADE: list[Judged] = []
"""The task of the trial that this process runs: the loop makes it by name."""


def task(
    data: str,
    epochs: int,
    schedule: str,
    crop: int,
    seed: int,
    flip: bool | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    nesterov: bool | None = None,
    warmup: float | None = None,
    ema: float | None = None,
    augment: float | None = None,
) -> Judged:
    plain = make_task(dict(locals())).given
    assert isinstance(plain, ImageClassification)
    MADE[:] = [Judged(plain.spec, plain.splits)]
    return MADE[0]


class EveryRound(Watcher):
    """Notes every round, and looks at the test split whenever the loop has looked at validation."""

    def __init__(self) -> None:
        self.noted: list[dict[str, float]] = []

    def finished(self, record: Round, rounds: int) -> None:
        self.noted.append(
            {
                "density": record.density,
                "macs": record.macs or 0,
                "validation": record.validation,
                "test": MADE[0].evaluate(MADE[0].judged, "test"),
            }
        )


def run(trial: Trial) -> dict[str, Any]:
    """A trial's row: after every round, its density, and validation and test accuracy."""
    torch.set_num_threads(1)
    began = time.monotonic()
    rounds = list(_control(trial)) if trial.method == CONTROL else _compressed(trial)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    made_by = {"torch": torch.__version__, "device": device, "seconds": round(time.monotonic() - began)}
    return {"key": trial.key, **asdict(trial), "kind": trial.kind, "history": rounds, **made_by}


def _compressed(trial: Trial) -> list[dict[str, float]]:
    watcher = EveryRound()
    with tempfile.TemporaryDirectory() as folder:
        weights = None if trial.retraining is None else _dense(trial, Path(folder, "dense.safetensors"))
        request = Request(
            trial.network,
            {"task": TASK, **trial.task, "epochs": trial.retraining or trial.epochs},
            density=trial.density,
            macs=trial.macs,
            granularity="unstructured" if trial.macs is None else "channel",
            score=trial.followed.score,
            gradual=trial.gradual or GRADUAL.get(trial.recipe, 0.0),
            recalibrate=trial.followed.recalibrate,
            method=trial.method,
            prune_per_round=trial.prune_per_round,
            rounds=trial.rounds,
            update=trial.update,
            seed=trial.seed,
            weights=weights,
            rehearsal=False,
        )
        compress(request, Path(folder) / "net.dwindle", watcher)
    return watcher.noted


def _dense(trial: Trial, file: Path) -> str:
    """Trains the dense network of a trial as its first round would, and saves it."""
    own, model = _start(trial)
    own.fit(model, start=0.0, on_step=lambda _: None)
    if trial.followed.recalibrate:
        recalibrate_by(CheckedTask(own), model)
    save_file(model.state_dict(), file)
    return str(file)


def _control(trial: Trial) -> Iterator[dict[str, float]]:
    own, model = _start(trial)
    density = 1.0
    while density > (trial.density or 0):
        own.fit(model, start=0.0, on_step=lambda _: None)
        validation, test = own.evaluate(model, "validation"), own.evaluate(model, "test")
        yield {"density": density, "macs": 0, "validation": validation, "test": test}
        density *= 1 - trial.prune_per_round


def _start(trial: Trial) -> tuple[Judged, nn.Module]:
    own = task(**trial.task, seed=trial.seed)
    torch.manual_seed(trial.seed)
    return own, build(ModelSpec(trial.network, own.classes, own.splits.shape))
