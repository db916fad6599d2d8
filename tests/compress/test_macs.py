"""MACs against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import find_groups
from dwindle.errors import UsageError


def test_layers_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 16, 3, padding=1, groups=4),
        nn.ConvTranspose2d(16, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 64, 10),
    ).train()
    assert macs(model, (torch.randn(1, 3, 8, 8),)) == {
        "0": 16 * 8 * 27,
        "1": 16 * 16 * 2 * 9,
        "2": 16 * 16 * 4 * 4,
        "4": 2560,
    }
    assert model.training


def test_a_forward_that_looks_at_values_is_refused() -> None:
    class Looks(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(UsageError, match="Looks can't be traced"):
        macs(Looks(4, 4), (torch.randn(1, 4),))


def test_attention_counts_its_products() -> None:
    layer = nn.TransformerEncoderLayer(24, 6, 20, batch_first=True)
    assert macs(layer, (torch.randn(1, 5, 24),)) == {
        "self_attn": 5 * 24 * 72 + 2 * 5 * 5 * 24 + 5 * 24 * 24,  # the fused call keeps out_proj to itself
        "linear1": 5 * 24 * 20,
        "linear2": 5 * 20 * 24,
    }


def test_two_ways_of_counting_agree() -> None:
    """The counter in torch, on a run; ours, on the trace."""
    model, example = torchvision.models.shufflenet_v2_x0_5(), (torch.randn(1, 3, 64, 64),)
    assert sum(macs(model, example).values()) == find_groups(model, example).macs()
