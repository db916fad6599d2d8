"""Cuts that change what is left: allowed where asked for, and told apart from the exact ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.channels import Channels
from dwindle.compress.network import Network
from dwindle.compress.request import Request
from dwindle.compress.resolve import resolve
from dwindle.compress.surgery.exactness import difference, prove
from dwindle.compress.surgery.find import find_groups
from dwindle.errors import UsageError
from dwindle.models.structure import describe, rebuild, tensors


class Encoder(nn.Module):
    """As a small ViT: patches, a class token, positions, blocks of attention, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class ResponseNorm(nn.Module):
    """ConvNeXtV2's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.randn(1, 1, 1, width)), nn.Parameter(torch.randn(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gain * (x * size / (size.mean(-1, keepdim=True) + 1e-6)) + self.shift + x


class Convolutional(nn.Module):
    """As a small ConvNeXtV2: a residual block whose hidden width is under a global response norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.wide, self.response = nn.LayerNorm(16), nn.Linear(16, 64), ResponseNorm(64)
        self.narrow, self.last, self.head = nn.Linear(64, 16), nn.GroupNorm(1, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inner = self.norm(self.deep(x).permute(0, 2, 3, 1))
        inner = self.narrow(self.response(nn.functional.gelu(self.wide(inner))))
        x = self.last(x + inner.permute(0, 3, 1, 2))
        return self.head(x.mean((2, 3)).sigmoid())


IMAGE = (torch.randn(1, 3, 16, 16),)


def test_what_norms_average_over_is_cut_where_that_is_allowed() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    exact, inexact = (find_groups(model, IMAGE, inexact=allowed) for allowed in (False, True))
    assert not any(group.inexact for group in exact.groups)
    assert [group.inexact for group in inexact.groups if group.name == "patches"] == [
        "layer_norm averages over its channels"
    ]
    least = [1] * len(exact.groups), [1] * len(inexact.groups)
    assert inexact.macs(least[1]) < 0.5 * exact.macs(least[0])


def test_a_network_that_loses_no_channel_exactly_is_refused_unless_that_is_allowed() -> None:
    model = Convolutional().eval()
    with pytest.raises(UsageError) as refused:
        find_groups(model, IMAGE)
    assert refused.value.code == "nothing-to-prune"
    assert "inexact_cuts" in str(refused.value)
    assert all(group.inexact for group in find_groups(model, IMAGE, inexact=True).groups)


@pytest.mark.parametrize("kind", [Encoder, Convolutional])
def test_half_of_the_macs_go_and_the_cut_network_is_one_like_any_other(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = Network(kind().eval(), IMAGE)
    whole = network.model
    assert Channels(align=4, inexact=True).shrink(network, 0.3) is not None
    assert network.macs <= 0.3 * network.dense_macs
    assert network.changes
    for change in network.changes:
        assert change.left < change.units
        assert 0 < difference(whole, change.keep, IMAGE, (None,)).outputs < float("inf")
    again = rebuild(describe(network.model, kind()), kind(), tensors(network.model)).eval()
    assert torch.equal(again(*IMAGE), network.model(*IMAGE))


def test_exact_groups_are_still_proven() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    found = find_groups(model, IMAGE, inexact=True)
    halves = found.keep([torch.arange(group.units // 2) for group in found.groups])
    assert [len(units) for units in found.kept(halves)] == [group.units // 2 for group in found.groups]
    assert prove(model, found.without(halves, inexact=True), IMAGE) < 1e-10
    left = found.kept(found.without(halves, inexact=False))
    assert [len(units) for units in left] == [g.units // 2 if g.inexact else g.units for g in found.groups]


def test_positions_of_channels_are_never_cut() -> None:
    class Which(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(x).mean((2, 3))) + self.first(x).argmax(1).float().mean()

    found = find_groups(Which().eval(), (torch.randn(1, 3, 8, 8),), inexact=True)
    assert {group.name for group in found.groups} == {"last"}


def test_only_channels_can_be_cut_inexactly() -> None:
    with pytest.raises(UsageError) as refused:
        resolve(Request("zoo:resnet8", "digits", density=0.5, granularity="unstructured", inexact_cuts=True))
    assert (refused.value.code, refused.value.option) == ("conflict", "inexact_cuts")
