"""Layers with a share of their own: of weights, and of channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.channels import Channels
from dwindle.compress.layer_shares import LayerShares
from dwindle.compress.network import Network
from dwindle.compress.request import Request
from dwindle.compress.resolve import resolve
from dwindle.errors import UsageError

IMAGE = (torch.randn(1, 3, 8, 8),)


def network() -> Network:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 4, 1),
    ]
    return Network(nn.Sequential(*layers).eval(), IMAGE)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x + self.second(x).relu())


def test_weights_of_a_layer_keep_their_share_and_the_others_meet_the_budget() -> None:
    pruned = network()
    granularity = Blocks(shares=LayerShares.of_texts(["2=50%", "5=100%"]))
    for share in (0.6, 0.3):
        before = dict(pruned.masks)
        granularity.shrink(pruned, share)
        density = {name: float(mask.float().mean()) for name, mask in pruned.masks.items()}
        assert density["2.weight"] == 0.5
        assert density["5.weight"] == 1
        assert granularity.share(pruned) == pytest.approx(share, abs=1e-3)
        assert all(not (pruned.masks[name] & ~mask).any() for name, mask in before.items())
    granularity.shrink(pruned, 0.0)
    assert granularity.share(pruned) == pytest.approx((512 + 128) / (96 + 1024 + 1024 + 128))


def test_blocks_keep_a_share_of_their_own_too() -> None:
    pruned = network()
    Blocks(4, 1, shares=LayerShares.of_texts(["*=10%", "4=75%"])).shrink(pruned, 0.9)
    assert float(pruned.masks["4.weight"].float().mean()) == 0.75
    assert float(pruned.masks["2.weight"].float().mean()) == pytest.approx(0.1, abs=0.01)


def test_channels_of_a_layer_keep_their_share_whatever_the_budget() -> None:
    for share in (0.8, 0.2):
        pruned = network()
        Channels(align=1, shares=LayerShares.of_texts(["2=75%"])).shrink(pruned, share)
        assert pruned.model[2].out_channels == 24
        assert pruned.macs / pruned.dense_macs <= share
    aligned = network()
    Channels(align=8, shares=LayerShares.of_texts(["2=50%", "4=30%"])).shrink(aligned, 0.9)
    assert [aligned.model[i].out_channels for i in (2, 4)] == [16, 16]
    again = Channels(align=8, shares=LayerShares.of_texts(["2=50%"]))
    again.shrink(aligned, 0.3)
    assert aligned.model[2].out_channels == 16  # half of the dense layer, not of what is left


@pytest.mark.parametrize(
    ("patterns", "code", "name"),
    [
        (["first=30%", "second=50%"], "conflict", None),
        (["last=30%"], "conflict", "last"),
        (["firts=30%"], "unknown-name", "firts"),
    ],
)
def test_shares_that_contradict_the_network_are_refused(patterns: list[str], code: str, name: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        Channels(align=1, shares=LayerShares.of_texts(patterns)).shrink(Network(Residual().eval(), IMAGE), 0.5)
    assert (refused.value.code, refused.value.option, refused.value.name) == (code, "layer_share", name)
    assert "did you mean first" in str(refused.value) or code == "conflict"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"layer_share": ("conv1",)}, "invalid-value"),
        ({"layer_share": ("conv1=130%",)}, "invalid-value"),
        ({"layer_share": ("conv1=30%",), "granularity": "2:4"}, "conflict"),
        ({"layer_share": ("conv1=30%",), "method": "amc"}, "conflict"),
        ({"layer_share": ("conv1=30%",), "granularity": "channel+unstructured", "macs": 0.5}, "conflict"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, object], code: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve(Request("zoo:resnet8", "digits", **({"density": 0.2} | options)))
    assert (refused.value.code, refused.value.option) == (code, "layer_share")


def test_it_is_recorded_where_it_is_given() -> None:
    assert "layer_share" not in resolve(Request("zoo:resnet8", "digits", density=0.2)).origin
    given = resolve(Request("zoo:resnet8", "digits", density=0.2, layer_share=("conv1=30%", "*=50%")))
    assert given.origin["layer_share"] == ["conv1=30%", "*=50%"]
    pruning = given.phases[0][0]
    assert isinstance(pruning, Blocks)
    assert pruning.shares == LayerShares((("conv1", 0.3), ("*", 0.5)))
