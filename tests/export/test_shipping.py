from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.onnx.target import Onnx
from dwindle.export.rounding import Calibrated
from dwindle.export.shipping import as_file, calibrated, rounded, shipper
from dwindle.models.checked_task import CheckedTask
from tests.tasks import PlainTask


class OneSample(PlainTask):
    """A task that has nothing but its example."""

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.linspace(-1, 1, 16)[None],)


class Real(OneSample):
    def inputs(self, split: str) -> tuple[Tensor, ...]:
        assert split == "train"
        return (torch.arange(1600.0).reshape(100, 16),)


def test_samples_are_spread_over_the_training_split() -> None:
    said: list[str] = []
    target = calibrated(ExecuTorch("w8a8"), CheckedTask(Real()), 3, said.append)
    assert isinstance(target, ExecuTorch)
    assert target.samples is not None
    assert target.samples[0][:, 0].tolist() == [0, 49 * 16, 99 * 16]
    assert said == ["calibrated on 3 samples of the training split"]


def test_a_task_without_inputs_is_said_to_have_only_its_example() -> None:
    said: list[str] = []
    target = calibrated(ExecuTorch("w8a8"), CheckedTask(OneSample()), None, said.append)
    assert isinstance(target, ExecuTorch)
    assert target.samples is not None
    assert len(target.samples[0]) == 1
    (line,) = said
    assert line.startswith("calibrated on the example input alone, as the task has no `inputs`")


@pytest.mark.parametrize("target", [Onnx("int8"), ExecuTorch("fp32")])
def test_what_rounds_no_activations_takes_no_samples(target: Onnx | ExecuTorch) -> None:
    assert calibrated(target, CheckedTask(Real()), 3, pytest.fail) is target


def test_codes_are_chosen_where_a_file_has_any_and_else_it_is_said_to_have_none() -> None:
    said: list[str] = []
    plain = ExecuTorch("fp32")
    assert rounded(plain, CheckedTask(Real()), 3, said.append) is plain
    assert "fp32" in said[0]
    target = rounded(ExecuTorch("w8a8"), CheckedTask(Real()), 3, said.append)
    assert isinstance(target.rounding, Calibrated)
    assert len(target.rounding.samples[0]) == 3


@pytest.mark.slow
def test_a_file_is_written_once_for_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    written: list[str] = []
    write = ExecuTorch.write

    def counting(self: ExecuTorch, module: nn.Module, *given: Any, **options: Any) -> str:
        written.append(type(module).__name__)
        return write(self, module, *given, **options)

    monkeypatch.setattr(ExecuTorch, "write", counting)
    network, batch = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.randn(7, 16)
    ships = shipper(ExecuTorch("w8a8").calibrated((batch,)), (batch[:1],))
    first = ships(network)(batch)
    assert torch.equal(ships(copy.deepcopy(network).train())(batch), first)
    assert len(written) == 1
    with torch.no_grad():
        network[0].weight[0] += 1
    assert not torch.equal(ships(network)(batch), first)
    assert len(written) == 2


@pytest.mark.slow
def test_a_task_judges_the_file_itself_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    example, batch = (torch.randn(1, 16),), torch.randn(7, 16)
    exact = network(batch).detach()
    file = as_file(ExecuTorch("w8a8").calibrated((batch,)), network, example)
    found = file(batch)
    assert found.shape == (7, 4)
    assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()
    steps = found.unique().diff()
    assert (steps / steps.min()).frac().round(decimals=2).remainder(1).max() < 0.02  # its outputs are int8 themselves
