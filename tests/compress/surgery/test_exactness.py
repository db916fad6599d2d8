"""The proof finds what it is there for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.surgery.choice import cut, find_groups, prove
from dwindle.compress.surgery.cut import Keep, Slice
from dwindle.compress.surgery.labels import Labels
from dwindle.errors import ParityFailed

IMAGE = (torch.randn(1, 3, 8, 8),)


def network(*middle: nn.Module, last: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, *middle, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    )
    with torch.no_grad():
        model[-1].weight.mul_(last)
        model[-1].bias.mul_(last)
    return model


def half_of_the_first() -> Keep:
    """What is right for a network in which nothing stands between the norm and the next convolution."""
    found = find_groups(network(nn.ReLU()), IMAGE)
    return found.keep([torch.arange(4) if g.name == "0" else torch.arange(g.units) for g in found.groups])


def test_a_right_cut_passes() -> None:
    assert prove(network(nn.ReLU()), half_of_the_first(), IMAGE) < 1e-13


@pytest.mark.parametrize("wrong", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid(), nn.GroupNorm(1, 8, affine=False)])
@pytest.mark.parametrize("last", [1.0, 0.0], ids=["", "behind a last layer of zeros"])
def test_what_is_not_zero_at_zero_is_caught_and_the_layer_named(wrong: nn.Module, last: float) -> None:
    keep = half_of_the_first()
    keep = Keep({**keep.tensors, "3.weight": keep.tensors["3.weight"]}, {})
    with pytest.raises(ParityFailed, match=r"first at layer '3' \(relative difference"):
        prove(network(wrong, last=last), keep, IMAGE)


def test_a_norm_s_bias_left_behind_is_caught() -> None:
    keep = half_of_the_first()
    forgotten = Slice(0, keep.tensors["1.bias"][0].kept, 8, writes=False)
    with pytest.raises(ParityFailed, match="first at layer '1'"):
        prove(network(nn.ReLU()), Keep({**keep.tensors, "1.bias": (forgotten,)}), IMAGE)


def test_the_wrong_channels_are_caught() -> None:
    keep = half_of_the_first()
    shifted = Slice(1, keep.tensors["3.weight"][0].kept + 1, 8, writes=False)
    with pytest.raises(ParityFailed, match="first at layer '3'"):
        prove(network(nn.ReLU()), Keep({**keep.tensors, "3.weight": (shifted,)}), IMAGE)


def test_a_network_that_no_longer_runs_is_caught() -> None:
    keep = half_of_the_first()
    rest = {name: slices for name, slices in keep.tensors.items() if name != "3.weight"}
    with pytest.raises(ParityFailed, match=r"first at layer '3' or right after it \(relative difference inf"):
        prove(network(nn.ReLU()), Keep(rest), IMAGE)


def test_a_hole_in_the_rules_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were nothing ever pinned, what the rules should have pinned would fail the proof."""

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(nn.Softmax(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    real = Labels.pin
    monkeypatch.setattr(Labels, "pin", lambda self, labels, why: real(self, labels, why) if "model" in why else None)
    found = find_groups(Outputs(), IMAGE)
    keep = found.keep([torch.arange(4) if g.name == "net.0" else torch.arange(g.units) for g in found.groups])
    assert cut(Outputs(), keep).net[0].out_channels == 4
    with pytest.raises(ParityFailed, match=r"first at layer 'net\.3'"):
        prove(Outputs(), keep, IMAGE)
