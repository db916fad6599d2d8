"""What ExecuTorch's XNNPACK delegate gets wrong of values in int8, or refuses, in its runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.export.parity import compare
from dwindle.models.signature import flat, signature_of

REAL = (torch.randn(32, 6, generator=torch.Generator().manual_seed(3)),)


class Read(nn.Module):
    """A linear layer, whose values are read in several ways."""

    def __init__(self, tried: Callable[[Read, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.first, self.along, self.last = nn.Linear(6, 8), nn.Conv1d(8, 4, 1), nn.Linear(8, 4)
        self.tried = tried

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.tried(self, self.first(x))


READ: dict[str, Callable[[Read, Tensor], tuple[Tensor, ...]]] = {
    "by a layer and an output": lambda net, x: (net.along(x.unsqueeze(-1)), x),
    "by a layer after a clamp, and a sigmoid": lambda net, x: (net.along(x.relu().unsqueeze(-1)), x.sigmoid()),
    "as one number": lambda net, x: (net.last(x) * x.mean(),),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", READ)
def test_values_in_int8_are_read(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, one = Read(READ[how]).eval().requires_grad_(False), (REAL[0][:1],)
    network = flat(network, signature_of(network, one))
    shipped, target = deployable(network, one), ExecuTorch("w8a8").calibrated(REAL)
    target.write(shipped, one, tmp_path / "net.pte", pack=True)
    parity = compare(target, tmp_path / "net.pte", network, shipped, REAL).parity
    assert parity.relative is not None
    assert parity.relative < 0.05
