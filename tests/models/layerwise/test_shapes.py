from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.models.layerwise.shapes import calls
from dwindle.price import Shape


class PadsItself(nn.Conv2d):
    """Pads as TensorFlow does, in its own forward pass."""

    def forward(self, given: Tensor) -> Tensor:
        edges = []
        for n, k, s in zip(given.shape[-2:], self.kernel_size, self.stride, strict=True):
            lacking = max(0, (-(-n // s) - 1) * s + k - n)
            edges = [lacking // 2, lacking - lacking // 2, *edges]
        return super().forward(functional.pad(given, edges))


@pytest.mark.parametrize(
    ("pixels", "kernel", "stride", "text"),
    [(4, 5, 1, "6>6 4x4 k5x5 p2x2 g6"), (8, 3, 2, "6>6 8x8 k3x3 s2x2 p1x1 g6"), (9, 3, 2, "6>6 9x9 k3x3 s2x2 p1x1 g6")],
)
def test_padding_in_a_forward_pass_is_told_from_what_the_layer_gives(
    pixels: int, kernel: int, stride: int, text: str
) -> None:
    model = nn.Sequential(PadsItself(6, 6, kernel, stride, groups=6))
    (call,) = calls(model, (torch.zeros(1, 6, pixels, pixels),))
    assert call.shape == Shape.parse(str(call.shape)) == Shape.parse(text)


def test_a_layer_that_pads_one_side_only_counts_as_the_rest() -> None:
    model = nn.Sequential(PadsItself(3, 4, 2), nn.Conv2d(4, 5, 3, padding=1))
    assert [call.layer for call in calls(model, (torch.zeros(1, 3, 7, 7),))] == ["1"]


def test_declared_padding_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1))
    (call,) = calls(model, (torch.zeros(1, 3, 11, 11),))
    assert call.shape.padding == (1, 1)
