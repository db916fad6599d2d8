from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.architecture import once, one_model


@once
def _seen(network: nn.Module, inputs: tuple[Tensor, ...], setting: int = 0) -> list[nn.Module]:
    return [network]


def _net(width: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=stride), nn.ReLU())


X = (torch.zeros(1, 3, 8, 8),)


def test_networks_of_one_architecture_share_what_is_found_once() -> None:
    first, second = _net(), _net()
    with one_model():
        assert _seen(first, X) is _seen(second, X)
        assert _seen(second, X) == [first]
    with one_model():
        assert _seen(second, X) == [second]


@pytest.mark.parametrize(
    ("other", "inputs", "setting"),
    [
        (_net(width=4), X, 0),
        (_net(stride=2), X, 0),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.Tanh()), X, 0),
        (_net(), (torch.zeros(1, 3, 9, 8),), 0),
        (_net(), X, 1),
    ],
)
def test_others_do_not(other: nn.Module, inputs: tuple[Tensor, ...], setting: int) -> None:
    with one_model():
        _seen(_net(), X)
        assert _seen(other, inputs, setting) == [other]


def test_nothing_is_kept_outside() -> None:
    first, second = _net(), _net()
    _seen(first, X)
    assert _seen(second, X) == [second]
