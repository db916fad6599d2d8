from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import BudgetMissed
from dwindle.export.auto import smallest
from dwindle.export.shipping import as_file
from dwindle.export.targets import load
from dwindle.models.checked_task import CheckedTask
from tests.tasks import PlainTask


class Distance(PlainTask):
    """Judges by how far a network's outputs are from the exact ones: in points, 100 is equal."""

    def __init__(self, network: nn.Module) -> None:
        self.x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        self.exact = network(self.x).detach()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.x[:1],)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> float:
        assert split == "validation"
        return 100 - float((model(self.x) - self.exact).abs().max())


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def ships(network: nn.Module, task: CheckedTask) -> Callable[[str], nn.Module]:
    return lambda precision: as_file(load("onnx", precision), network, task.example_inputs())


SIZES = {"fp32": 400, "fp16": 200, "int8": 100}


def test_the_smallest_file_that_holds_is_taken(network: nn.Module) -> None:
    task, said = CheckedTask(Distance(network)), []
    assert smallest(SIZES, ships(network, task), task, 100.0, 1.0, said.append) == "int8"
    assert said[0].startswith("int8 (100 B) loses 0.0")
    assert len(said) == 1
    assert smallest(SIZES, ships(network, task), task, 100.0, 1e-3, said.append) == "fp16"
    assert smallest(SIZES, ships(network, task), task, 100.0, 0.0) == "fp32"


def test_bytes_decide_and_not_bits(network: nn.Module) -> None:
    task = CheckedTask(Distance(network))
    assert smallest({"fp16": 100, "int8": 101}, ships(network, task), task, 100.0, 1.0) == "fp16"
    assert smallest({"fp16": 100, "int8": 100}, ships(network, task), task, 100.0, 1.0) == "fp16"


def test_nothing_that_holds_is_a_missed_budget(network: nn.Module) -> None:
    task = CheckedTask(Distance(network))
    with pytest.raises(BudgetMissed) as missed:
        smallest({"fp32": 400, "fp16": 200}, ships(network, task), task, 101.0, 0.5)
    assert (missed.value.code, missed.value.name) == ("max-drop-missed", "fp32")
