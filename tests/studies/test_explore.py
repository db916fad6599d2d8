"""The exploring loop prunes as a recipe says, and its table is of differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dwindle.models.datasets import load
from studies.rewinding import explore
from studies.rewinding.explore import COSINE, SMALLEST, Run, Tried, table


@pytest.mark.parametrize(
    "recipe",
    [Tried(), replace(COSINE, gradual=0.5, ema=0.9, score="lamp"), replace(COSINE, gradual=0.5, feedback=True),
     replace(COSINE, score="fisher", label_smoothing=0.05, nesterov=True)],
    ids=["paper", "gradual", "feedback", "fisher"],
)  # fmt: skip
def test_a_run_ends_at_the_smallest_density(monkeypatch: pytest.MonkeyPatch, recipe: Tried) -> None:
    whole = load("digits")
    few = replace(whole, train=whole.train[torch.arange(256)], validation=whole.validation[torch.arange(100)])
    monkeypatch.setattr(explore, "fashion_mnist_14", lambda: few)
    monkeypatch.setattr(explore, "EPOCHS", 1)
    monkeypatch.setattr(explore, "PER_ROUND", 0.8)
    run = Run("zoo:resnet8", 0, recipe, torch.device("cpu"))
    assert [density for density, _ in run()] == pytest.approx([1.0, 0.2, 0.04, SMALLEST])
    left = sum(int((weight != 0).sum()) for weight in run.weights) / sum(weight.numel() for weight in run.weights)
    assert left == pytest.approx(SMALLEST, abs=1e-4)


def test_the_table_is_of_means_over_seeds() -> None:
    recipes = {"a": Tried(), "b": COSINE}
    rows = [
        {"network": network, "seed": seed, "name": name, "history": [[1.0, 50.0 + seed], [0.5, 50.0 + seed + ahead]]}
        for network in explore.NETWORKS
        for seed in (0, 1)
        for name, ahead in (("a", 0.0), ("b", 1.0 + seed))
    ]
    assert table(rows, recipes, (0, 1)).splitlines()[-1] == "| zoo:resnet8 | b | +0.00 | +1.50 |"
