from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dwindle.compress.masks import mask_applier, masks_hold, prunable, unnamed


class Everything(nn.Module):
    """Layers of every kind of name."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.embedding = nn.Embedding(5, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.gru = nn.GRU(8, 4, num_layers=2, bidirectional=True)
        self.lstm = nn.LSTM(8, 8, proj_size=4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.cell, self.gains = nn.LSTMCell(4, 3), nn.LayerNorm((2, 3, 4))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.tied = nn.Linear(8, 5)
        self.tied.weight = self.embedding.weight


def test_every_trainable_weight_can_be_pruned_and_nothing_else() -> None:
    recurrent = [
        f"gru.weight_{part}_l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")
    ]
    assert set(prunable(Everything())) == {
        "embedding.weight",
        "conv.weight",
        *recurrent,
        "cell.weight_ih",
        "cell.weight_hh",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "lstm.weight_hr_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }


def test_what_goes_by_another_name_is_found() -> None:
    assert list(unnamed(Everything())) == ["token"]
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert not prunable(normed)
    assert list(unnamed(normed)) == ["parametrizations.weight.original0", "parametrizations.weight.original1"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layers_zeros_are_held(kind: Callable[[int, int], nn.RNNBase]) -> None:
    """Its weights are parameters of the layer and in a list of their own besides."""
    layer = kind(4, 4)
    masks = {name: torch.rand_like(weight) > 0.5 for name, weight in prunable(layer).items()}
    mask_applier(layer, masks)()
    assert masks_hold(layer, masks)
    before = layer(torch.ones(3, 1, 4))[0]
    for name, weight in prunable(layer).items():
        weight.data += ~masks[name]
    mask_applier(layer, masks)()
    assert torch.equal(layer(torch.ones(3, 1, 4))[0], before)
