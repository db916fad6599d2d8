from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import BudgetMissed
from dwindle.export.bits import fewest_bits
from dwindle.export.quantize import as_shipped


class Distance:
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


def ships(network: nn.Module, task: Distance) -> Callable[[str], nn.Module]:
    return lambda precision: as_shipped(network, task.example_inputs(), precision)


def test_the_fewest_bits_that_hold_are_taken(network: nn.Module) -> None:
    task, said = Distance(network), []
    names = ("fp32", "fp16", "int8")
    assert fewest_bits(names, ships(network, task), task, 100.0, 1.0, said.append) == "int8"
    assert len(said) == 1
    assert fewest_bits(names, ships(network, task), task, 100.0, 1e-3, said.append) == "fp16"
    assert fewest_bits(names, ships(network, task), task, 100.0, 0.0) == "fp32"


def test_nothing_that_holds_is_a_missed_budget(network: nn.Module) -> None:
    task = Distance(network)
    with pytest.raises(BudgetMissed, match=r"no precision stays within 0\.5 points: fp32 loses 1\.00"):
        fewest_bits(("fp32", "fp16"), ships(network, task), task, 101.0, 0.5)
