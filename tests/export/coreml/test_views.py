from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.coreml.views import RANK, without_what_core_ml_lacks
from dwindle.export.fold import trace


class Windows(nn.Module):
    """Window by window, as Swin and MaxViT: a view of six dimensions, permuted, a layer, and all the way back."""

    def __init__(self, swap: bool) -> None:
        super().__init__()
        self.swap, self.layer = swap, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)
        if self.swap:
            parts = parts.transpose(-3, 3).transpose(1, 2)
        y = self.layer(parts.reshape(n * (h // 2) * (w // 2), 4, c))
        y = y.view(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).contiguous()
        return y.view(n, c, h, w).flatten(1)


class SixAlive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (2 * x.view(2, 2, 2, 2, 2, 2).permute(5, 4, 3, 2, 1, 0)).relu().reshape(1, 64)


@pytest.mark.parametrize("swap", [False, True])
def test_windows_need_five_dimensions_and_give_the_same_numbers(swap: bool) -> None:
    module, x = Windows(swap).eval(), torch.randn(1, 4, 6, 4)
    program = without_what_core_ml_lacks(trace(module, (x,)).run_decompositions({}))
    assert all(node.meta["val"].dim() <= RANK for node in program.graph.nodes if "val" in node.meta)
    assert torch.equal(program.module()(x), module(x))


@pytest.mark.slow
@torch.no_grad()
def test_windows_are_written_and_every_weight_is_there(tmp_path: Path) -> None:
    target, module, inputs = targets.load("coreml"), Windows(True).eval(), (torch.randn(1, 4, 6, 4),)
    target.write(module, inputs, tmp_path / "net.mlpackage", pack=False)
    held = target.decode(tmp_path / "net.mlpackage", module)
    assert np.array_equal(held["layer.weight"], module.layer.weight.detach().half().numpy())


def test_six_dimensions_that_are_needed_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        targets.load("coreml").write(SixAlive(), (torch.randn(1, 64),), tmp_path / "net.mlpackage", pack=False)
    assert refused.value.code == "not-convertible"
