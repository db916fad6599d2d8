from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.compression import compress
from dwindle.compress.gradual import PRUNINGS, Ramp
from dwindle.compress.network import Network
from dwindle.compress.request import Request
from dwindle.errors import UsageError
from dwindle.models.classify import ImageClassification


def _network() -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 10)))


def _nonzero(model: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1)


@pytest.mark.slow
@given(st.floats(0.1, 1), st.floats(0.01, 0.9), st.integers(1, 500))
def test_a_ramp_falls_from_its_start_to_its_end_in_a_few_goes(before: float, part: float, steps: int) -> None:
    network, ramp = _network(), Ramp(before, before * part, steps, last=False)
    solver = Solver(Budget(density=0.01), Blocks(), _nonzero, "onnx")
    solver.granularity.shrink(network, before)
    shares, goes = [network.density], 0
    for step in range(1, steps + 5):
        goes += ramp.prune(step, network, solver)
        shares.append(network.density)
    assert shares == sorted(shares, reverse=True)
    assert network.density == pytest.approx(ramp.after, abs=1e-3)
    assert goes == min(steps, PRUNINGS)


def test_the_fall_is_steep_at_first() -> None:
    ramp = Ramp(1.0, 0.2, 100, last=False)
    assert [ramp.share(step) for step in (0, 50, 100)] == pytest.approx([1.0, 0.3, 0.2])


def test_the_last_round_ends_on_the_budget_of_the_weights_as_they_are_by_then() -> None:
    network, solver = _network(), Solver(Budget(size=700), Blocks(), _nonzero, "onnx")
    Ramp(1.0, 0.9, 10, last=True).prune(10, network, solver)
    assert 693 <= _nonzero(network.model) <= 700


@pytest.mark.slow
def test_compress_prunes_while_it_retrains_and_ends_on_the_budget(tmp_path: Path) -> None:
    task = {"data": "digits", "epochs": 2, "batch_size": 128, "ema": 0.9}
    request = Request("zoo:resnet8", task, size=100_000, rounds=2, gradual=0.5)
    done = compress(request, tmp_path / "net.dwindle")
    assert len(done.history) == 3
    assert 98_000 <= done.history[-1].bytes <= 100_000


def test_a_task_must_say_how_many_steps_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassification, "steps", None)
    request = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, density=0.5, gradual=0.5)
    with pytest.raises(UsageError) as refused:
        compress(request, tmp_path / "net.dwindle")
    assert refused.value.option == "gradual"
    assert not (tmp_path / "net.dwindle").exists()
