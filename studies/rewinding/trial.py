"""One trial of the comparison, by the product's own loop."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle.compress import Request, compress
from dwindle.models.build import ModelSpec, build
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.task import Split
from studies.rewinding.grid import CONTROL, Trial

TASK = "studies.rewinding.trial:task"


class Judged(ImageClassification):
    """Looks at the test split whenever the loop looks at validation."""

    tests: list[float]

    def evaluate(self, model: nn.Module, split: Split) -> float:
        if split == "validation":
            self.tests.append(super().evaluate(model, "test"))
        return super().evaluate(model, split)


MADE: list[Judged] = []
"""The task of the trial that this process runs: the loop makes it by name."""


def task(
    data: str, epochs: int, schedule: str, crop: int, seed: int, flip: bool = True, batch_size: int = 128
) -> Judged:
    plain = make_task(
        {
            "data": data,
            "epochs": epochs,
            "schedule": schedule,
            "crop": crop,
            "flip": flip,
            "batch_size": batch_size,
            "seed": seed,
        }
    )
    assert isinstance(plain, ImageClassification)
    made = Judged(plain.spec, plain.splits)
    made.tests = []
    MADE[:] = [made]
    return made


def run(trial: Trial) -> dict[str, Any]:
    """A trial's row: after every round, its density, and validation and test accuracy."""
    torch.set_num_threads(1)
    rounds = list(_control(trial) if trial.method == CONTROL else _compressed(trial))
    return {"key": trial.key, **asdict(trial), "kind": trial.kind, "history": rounds, "torch": torch.__version__}


def _compressed(trial: Trial) -> Iterator[dict[str, float]]:
    request = Request(
        trial.network,
        {"task": TASK, **trial.task},
        density=trial.density,
        granularity="unstructured",
        method=trial.method,
        prune_per_round=trial.prune_per_round,
        rounds=trial.rounds,
        seed=trial.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        done = compress(request, Path(folder) / "net.dwindle")
    for record, test in zip(done.history, MADE[0].tests, strict=True):
        yield {"density": record.density, "validation": record.validation, "test": test}


def _control(trial: Trial) -> Iterator[dict[str, float]]:
    own = task(**trial.task, seed=trial.seed)
    torch.manual_seed(trial.seed)
    model = build(ModelSpec(trial.network, own.classes, own.splits.shape))
    density = 1.0
    while density > trial.density:
        own.fit(model, start=0.0, on_step=lambda _: None)
        yield {"density": density, "validation": own.evaluate(model, "validation"), "test": own.tests[-1]}
        density *= 1 - trial.prune_per_round
