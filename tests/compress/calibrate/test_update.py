"""Least squares within iterative pruning, on whole runs of the digits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dwindle.compress import Request, compress
from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.update import solve_survivors
from dwindle.compress.channels import Channels
from dwindle.compress.masks import masks_hold
from dwindle.compress.network import Granularity, Network
from dwindle.compress.watcher import Watcher
from dwindle.models.build import ModelSpec, build, restore
from dwindle.models.checked_task import CheckedTask
from dwindle.models.tasks import make_task

pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture(scope="module")
def task() -> CheckedTask:
    return make_task({"data": "digits", "epochs": 1, "seed": 0})


def apart(model: nn.Module, other: nn.Module, task: CheckedTask) -> float:
    inputs = task.inputs("validation")
    with torch.no_grad():
        wanted = other.eval()(*inputs)
        return float((model.eval()(*inputs) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.slow
@pytest.mark.parametrize("granularity", [Blocks(), Channels(align=4)])
def test_survivors_make_up_for_a_second_pruning_as_for_a_first(granularity: Granularity, task: CheckedTask) -> None:
    torch.manual_seed(0)
    model = build(ModelSpec("zoo:resnet8", 10, (1, 8, 8)))
    task.fit(model, start=0.0, on_step=lambda loss: None)
    network = Network(model.eval(), task.example_inputs())
    for share in (0.6, 0.4):
        before = copy.deepcopy(network.model)
        keep = granularity.shrink(network, share)
        plain = copy.deepcopy(network.model)
        solve_survivors(network, before, keep, task)
        assert apart(network.model, before, task) < 0.7 * apart(plain, before, task)
        assert masks_hold(network.model, network.masks)


class Stopped(Watcher):
    """Ends a run after so many steps of its second round."""

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if index == 2 and done == 6:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {"density": 0.4, "prune_per_round": 0.35, "update": "least-squares", "rehearsal": False}
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, **options)
    whole = compress(request, tmp_path / "whole.dwindle")
    with pytest.raises(KeyboardInterrupt):
        compress(request, tmp_path / "stopped.dwindle", Stopped())
    resumed = compress(request, tmp_path / "stopped.dwindle")
    first, second = restore(whole).state_dict(), restore(resumed).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.origin["update"] == "least-squares"
