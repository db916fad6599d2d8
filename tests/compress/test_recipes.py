from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.network import Network
from dwindle.compress.recipes import RECIPES, recipe
from dwindle.compress.request import Request
from dwindle.compress.resolve import resolve
from dwindle.compress.scores import load
from dwindle.errors import UsageError
from dwindle.models.classify import TaskSpec
from dwindle.origin import command_line

BUDGET = {"density": 0.5}


def test_a_recipe_goes_before_the_data_sets_defaults() -> None:
    paper = resolve(Request("zoo:resnet8", "digits", recipe="paper", **BUDGET))
    assert (paper.request.score, paper.task_options["schedule"]) == ("magnitude", "step")
    best = resolve(Request("zoo:resnet8", "digits", recipe="best", **BUDGET))
    assert best.request.score == RECIPES["best"].score
    assert best.task_options.items() >= RECIPES["best"].task.items()


def test_what_is_asked_for_goes_before_a_recipe() -> None:
    task = {"data": "digits", "schedule": "imagenet"}
    asked = resolve(Request("zoo:resnet8", task, recipe="best", score="layerwise", **BUDGET))
    assert (asked.request.score, asked.task_options["schedule"]) == ("layerwise", "imagenet")


def test_without_a_recipe_the_data_set_says() -> None:
    asked = resolve(Request("zoo:resnet8", "digits", **BUDGET))
    assert (asked.request.score, asked.task_options) == ("magnitude", {"data": "digits", "seed": 0})


def test_a_users_own_task_has_its_own_schedule() -> None:
    asked = resolve(Request("zoo:resnet8", {"task": "my.module:task"}, recipe="best", **BUDGET))
    assert (asked.request.score, asked.task_options) == (RECIPES["best"].score, {"task": "my.module:task", "seed": 0})


def test_an_agent_allocates_by_magnitude_whatever_the_recipe() -> None:
    asked = resolve(Request("zoo:resnet8", "digits", recipe="best", method="amc", **BUDGET))
    assert asked.request.score == "magnitude"


@pytest.mark.parametrize("begun", [{"pretrained": True}, {"weights": "w.pt", "new_head": True}])
@pytest.mark.parametrize("name", [None, "best"])
def test_a_network_that_begins_with_trained_weights_keeps_its_fresh_head(
    begun: dict[str, Any], name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pt").write_bytes(b"weights")
    own: dict[str, Any] = {"task": "my.module:task"}
    asked = resolve(Request("timm:resnet18", own, recipe=name, **begun, **BUDGET))
    assert asked.request.score == "lamp"
    words = command_line({**asked.origin, "model": {"spec": "timm:resnet18"}, "task": own}, "net.dwindle")
    assert not any("--score" in word for word in words)
    kept = resolve(Request("timm:resnet18", own, score="magnitude", **begun, **BUDGET))
    assert kept.request.score == "magnitude"


def test_weights_that_are_not_trained_on_are_ranked_by_magnitude() -> None:
    asked = resolve(Request("timm:resnet18", "digits", pretrained=True, method="calibrate", **BUDGET))
    assert asked.request.score == "magnitude"


def test_no_recipe_for_trained_weights_empties_a_fresh_head() -> None:
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        net[2].weight *= 1e-3
    network = Network(net, (torch.rand(1, 16),))
    Blocks(score=load(RECIPES["finetune-photo"].score)).shrink(network, 0.2)
    assert not network.emptied
    Blocks().shrink(network, 0.1)  # as by magnitude
    assert network.emptied == ["2.weight"]


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'best'") as refused:
        recipe("bset")
    assert (refused.value.option, refused.value.name) == ("recipe", "bset")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_made_of_options_that_there_are(name: str) -> None:
    spec = TaskSpec("digits", **RECIPES[name].task)
    assert all(getattr(spec, option) == value for option, value in RECIPES[name].task.items())


def test_the_papers_recipe_is_the_papers() -> None:
    """Renda et al. 2020, table 1: everything but the schedule is TaskSpec's own."""
    plain = TaskSpec("cifar10")
    assert RECIPES["paper"].task == {"schedule": plain.schedule, "warmup": plain.warmup}
