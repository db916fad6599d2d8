"""Pruning from a loop of the user's own: gradual, held, saved, and taken up by `method` keep."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.compress import Pruner, Request, compress
from dwindle.errors import CheckpointError, UsageError


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def train(network: nn.Module, steps: int, after: Callable[[], object]) -> None:
    """Steps of SGD with momentum, which moves pruned weights unless they are held."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 16, generator=generator)
        optimizer.zero_grad()
        functional.mse_loss(network(x), x[:, :4]).backward()
        optimizer.step()
        after()


def zeros(network: nn.Module) -> float:
    weights = [network.get_parameter(name) for name in ("0.weight", "2.weight")]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_weights_are_pruned_over_the_steps_and_held_from_then_on(network: nn.Module) -> None:
    pruner, seen = Pruner(network, density=0.2, steps=40, begin=10), []

    def after() -> None:
        pruner.step()
        seen.append(zeros(network))

    train(network, 60, after)
    assert seen[9] == 0
    assert seen == sorted(seen)
    assert 0 < seen[15] < seen[30] < seen[-1]
    assert seen[49] == seen[-1] == pytest.approx(0.8, abs=0.01) == 1 - pruner.density


def test_a_saved_pruner_goes_on(network: nn.Module) -> None:
    pruner = Pruner(network, density=0.2, steps=40)
    train(network, 20, pruner.step)
    state, density = pruner.state_dict(), pruner.density
    torch.manual_seed(2)
    again = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    resumed = Pruner(again, density=0.2, steps=40)
    resumed.load_state_dict(state)
    assert resumed.density == density
    assert all(torch.equal(resumed.masks[name], mask) for name, mask in pruner.masks.items())
    train(again, 20, resumed.step)
    assert zeros(again) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(CheckpointError):
        Pruner(nn.Linear(3, 3), density=0.5).load_state_dict(state)


def test_a_pattern_implies_its_density(network: nn.Module) -> None:
    pruner = Pruner(network, granularity="2:4", exclude=("2.*",))
    train(network, 3, pruner.step)
    groups: Tensor = (network.get_parameter("0.weight") != 0).view(32, 4, 4).sum(2)
    assert (groups == 2).all()
    assert list(pruner.masks) == ["0.weight"]


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "density"),
        ({"density": 1.5}, "density"),
        ({"density": 0.5, "steps": 0}, "steps"),
        ({"density": 0.5, "begin": -1}, "begin"),
        ({"density": 0.5, "granularity": "channel"}, "granularity"),
    ],
)
def test_what_makes_no_sense_is_refused(network: nn.Module, options: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as raised:
        Pruner(network, **options)
    assert raised.value.option == option


def test_its_result_is_kept_by_compress(tmp_path: Path) -> None:
    plain_loop: Any = importlib.import_module("examples.plain_loop")
    network = plain_loop.net()
    pruner = Pruner(network, density=0.3, steps=100)
    plain_loop.Loop().fit(network, start=0.0, on_step=lambda loss: pruner.step())
    torch.save(network.state_dict(), tmp_path / "pruned.pt")
    request = Request(
        "examples.plain_loop:net",
        {"task": "examples.plain_loop:Loop"},
        method="keep",
        weights=str(tmp_path / "pruned.pt"),
    )
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density == pytest.approx(0.3, abs=0.001)
    assert done.metrics["test"] > 80
