"""Every step's learning rate, of every method, against the rewinding paper's table (Renda et al. 2020, table 1).

The table is in epochs; a step's rate is the table's at the middle of that step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.compress.methods import METHODS, method
from dwindle.models.classify import ImageClassification, TaskSpec, learning_rate
from dwindle.models.data import Splits, Subset

PER_EPOCH = 3


def resnet56(epoch: float) -> float:
    return 0.1 if epoch < 91 else 0.01 if epoch < 136 else 0.001


def resnet50(epoch: float) -> float:
    if epoch < 5:
        return 0.4 * epoch / 5
    return 0.4 if epoch < 30 else 0.04 if epoch < 60 else 0.004 if epoch < 80 else 0.0004


CIFAR: dict[str, Any] = {}  # the defaults
IMAGENET: dict[str, Any] = {"epochs": 90, "lr": 0.4, "schedule": "imagenet", "warmup": 5 / 90, "nesterov": True}
TABLES = {resnet56: CIFAR, resnet50: IMAGENET}

RETRAININGS = [
    (name, rewind_to)
    for name in METHODS
    for rewind_to in (None, 0.0, 0.1, 0.5, 0.9)
    if METHODS[name].retrains and (name != "lottery-ticket" or not rewind_to)  # it rewinds to the start alone
]


@cache
def trained_rates(table: Callable[[float], float], start: float, last_lr: bool) -> list[float]:
    """What the optimizer had at each step of a real training, three steps to the epoch.

    Methods that start alike have it alike: each is trained once.
    """
    images, labels = torch.zeros(PER_EPOCH, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0])
    subset = Subset(images, labels)
    task = ImageClassification(
        TaskSpec("none", crop=0, flip=False, batch_size=1, **TABLES[table]), Splits(subset, subset, subset, ("a", "b"))
    )
    rates: list[float] = []

    def on_step(_: float) -> None:
        assert task.optimizer is not None
        (group,) = task.optimizer.param_groups
        rates.append(group["lr"])

    task.fit(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), start=start, on_step=on_step, last_lr=last_lr)
    return rates


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("name", "rewind_to"), RETRAININGS)
def test_every_step_of_every_method(table: Callable[[float], float], name: str, rewind_to: float | None) -> None:
    chosen = method(name, rewind_to)
    epochs = TaskSpec("none", **TABLES[table]).epochs
    whole = [table((step + 0.5) / PER_EPOCH) for step in range(epochs * PER_EPOCH)]
    first = round((METHODS[name].start if rewind_to is None else rewind_to) * len(whole))
    expected = [whole[-1]] * (len(whole) - first) if name == "finetune" else whole[first:]
    assert trained_rates(table, chosen.start, chosen.last_lr) == pytest.approx(expected, rel=1e-12)


def test_resnet56_over_its_71108_iterations() -> None:
    spec, steps = TaskSpec("none"), 71_108
    rates = [learning_rate(spec, step, steps) for step in range(steps)]
    assert rates == pytest.approx([resnet56((step + 0.5) * 182 / steps) for step in range(steps)], rel=1e-12)
    # 91/182 of 71,108 is 35,554; 136/182 is 53,136.1, so that step 53,136 is more than half past the drop.
    lengths = [(pytest.approx(rate), len(list(group))) for rate, group in groupby(rates)]
    assert lengths == [(0.1, 35_554), (0.01, 53_136 - 35_554), (0.001, 71_108 - 53_136)]


def test_resnet50_over_90_epochs_of_imagenet() -> None:
    per_epoch = 1_281_167 // 1_024
    spec, steps = TaskSpec("none", **IMAGENET), 90 * per_epoch
    rates = [learning_rate(spec, step, steps) for step in range(steps)]
    assert rates == pytest.approx([resnet50((step + 0.5) / per_epoch) for step in range(steps)], rel=1e-12)
    rise = 0.4 / (5 * per_epoch)
    assert rates[0] == pytest.approx(rise / 2)
    assert rates[5 * per_epoch - 1] == pytest.approx(0.4 - rise / 2)
    after = Counter(round(rate, 12) for rate in rates[5 * per_epoch :])
    assert after == {0.4: 25 * per_epoch, 0.04: 30 * per_epoch, 0.004: 20 * per_epoch, 0.0004: 10 * per_epoch}
