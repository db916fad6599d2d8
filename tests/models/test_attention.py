"""The stand-ins compute what the layers they stand in for compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention

from dwindle.models import attention
from dwindle.models.attention import STAND_INS, slim


def stand_in_for(layer: nn.Module) -> nn.Module:
    """The same layer, all its heads there, run by the code of its stand-in."""
    known = next(known for known in STAND_INS if known.original is type(layer))
    layer.head_dim = known.projection(layer).shape[1] // getattr(layer, known.heads)
    layer.__class__ = known.slim
    return layer


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", ["none", "boolean", "additive", "per head"])
def test_multi_head_attention(batch_first: bool, need_weights: bool, masks: str) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first)
    nn.init.normal_(layer.in_proj_bias)
    x = torch.randn(2, 5, 12) if batch_first else torch.randn(5, 2, 12)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    arguments = {
        "none": {},
        "boolean": {"attn_mask": torch.ones(5, 5).triu(1).bool(), "key_padding_mask": padding},
        "additive": {"attn_mask": torch.randn(5, 5)},
        "per head": {"attn_mask": torch.randn(6, 5, 5)},
    }[masks]
    expected, weights = layer(x, x, x, need_weights=need_weights, **arguments)
    result, got = stand_in_for(layer)(x, x, x, need_weights=need_weights, **arguments)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(got, weights)


def test_multi_head_attention_to_something_else_and_without_a_batch() -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, bias=False)
    query, key, value = torch.randn(5, 2, 12), torch.randn(7, 2, 12), torch.randn(7, 2, 12)
    expected = layer(query, key, value, average_attn_weights=False)
    alone = layer(query[:, 0], query[:, 0], query[:, 0])
    slimmed = stand_in_for(layer)
    torch.testing.assert_close(slimmed(query, key, value, average_attn_weights=False), expected)
    torch.testing.assert_close(slimmed(query[:, 0], query[:, 0], query[:, 0]), alone)


@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [0, 2]])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (4, 8)])
def test_shifted_windows(shift: list[int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ShiftedWindowAttention(12, [4, 4], list(shift), 3)
    nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, *size, 12)
    expected = layer(x)
    torch.testing.assert_close(stand_in_for(layer)(x), expected)


def test_relative_positions() -> None:
    layer = RelativePositionalMultiHeadAttention(12, 4, 9)
    x = torch.randn(2, 5, 9, 12)
    expected = layer(x)
    torch.testing.assert_close(stand_in_for(layer)(x), expected)


def test_only_layers_with_heads_missing_are_touched() -> None:
    whole, other = nn.MultiheadAttention(12, 3), nn.Linear(2, 2)
    for layer in (whole, other):
        kind = type(layer)
        slim(layer)
        assert type(layer) is kind
    missing = nn.MultiheadAttention(12, 3)
    missing.in_proj_weight = nn.Parameter(missing.in_proj_weight[:24])
    slim(missing)
    assert type(missing) is attention.SlimMultiheadAttention
    assert (missing.num_heads, missing.head_dim, missing.embed_dim) == (2, 4, 12)
