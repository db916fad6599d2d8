from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.layers import Layers
from dwindle.compress.masks import masks_hold
from dwindle.compress.network import Network
from dwindle.errors import UsageError

MODEL = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        (Layers(), {"0.weight", "1.0.weight", "1.1.weight"}),
        (Layers(include=("1.*",)), {"1.0.weight", "1.1.weight"}),
        (Layers(exclude=("1.1",)), {"0.weight", "1.0.weight"}),
        (Layers(include=("1.*",), exclude=("1.1.weight",)), {"1.0.weight"}),
    ],
)
def test_patterns_choose_layers(layers: Layers, left: set[str]) -> None:
    assert set(layers.of(MODEL)) == left


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (Layers(exclude=("classifier.*",)), "'classifier.\\*' matches no prunable layer: there are 0.weight"),
        (Layers(exclude=("*",)), "leave nothing to prune"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(layers: Layers, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        layers.of(MODEL)


def test_a_parameter_of_any_name_is_reached_by_it() -> None:
    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.kernel = nn.Linear(4, 8), nn.Parameter(torch.randn(8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) @ self.kernel

    model = Kernel()
    assert set(Layers().of(model)) == {"linear.weight"}
    assert set(Layers(include=("*", "kernel")).of(model)) == {"linear.weight", "kernel"}
    assert set(Layers(include=("kernel",)).of(model)) == {"kernel"}
    network = Network(model, (torch.randn(1, 4),))
    assert set(Layers().of(model, network.kernels)) == {"linear.weight", "kernel"}  # as it was seen at work
    assert set(Layers(exclude=("kernel",)).of(model, network.kernels)) == {"linear.weight"}
    Blocks().shrink(network, 0.25)
    assert network.density == pytest.approx(0.25, abs=0.02)
    assert masks_hold(model, network.masks)
    assert (model.kernel == 0).any()
