"""That runtimes still compute zeros sparsely: their authors promise it nowhere, and XNNPACK's successor does not.

Counted by emulation, a network with 90% zeros against the same network whose zeros are stored, or computed, densely.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench.devices import emulator
from dwindle.bench.devices.emulator import Count
from dwindle.export import targets
from dwindle.export.fold import deployable

pytestmark = [pytest.mark.slow, pytest.mark.needs("arm64")]


class Separable(nn.Module):
    """A stem as XNNPACK wants it, 1×1 and depthwise convolutions, global pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 256, 1)
        self.deep, self.narrow = nn.Conv2d(256, 256, 3, 1, 1, groups=256), nn.Conv2d(256, 64, 1)
        self.last, self.classifier = nn.Conv2d(64, 256, 1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.deep(self.wide(self.stem(x).relu()).relu()).relu())
        x = self.last(x).relu()
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Residual(nn.Module):
    """3×3 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            nn.Conv2d(3, 64, 3, 2, 1),
            nn.Conv2d(64, 64, 3, 1, 1),
            nn.Conv2d(64, 64, 3, 1, 1),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.two(self.one(x).relu())).relu()
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


X = (torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)


def pruned(network: nn.Module, block: int = 1) -> nn.Module:
    """The network without 90% of the weights, in blocks of output channels, of all layers but the first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][1:]:
            if layer.weight.shape[1] > 1:
                rows = -(-len(layer.weight) // block)
                keep = torch.rand(rows, *layer.weight.shape[1:], generator=generator) < 0.1
                layer.weight *= keep.repeat_interleave(block, 0)[: len(layer.weight)]
    return deployable(network.eval(), X)


def counted(network: nn.Module, target: str, folder: Path, *, pack: bool, sparse: bool = False) -> Count:
    """The count of a network's file, whose outputs are the network's."""
    writer = targets.load(target)
    path = folder / f"net{writer.suffix}"
    writer.write(network, X, path, pack=pack)
    found = emulator.count(path, target, [X[0].numpy()], sparse=sparse)
    np.testing.assert_allclose(found.outputs[0], network(*X).detach().numpy(), rtol=1e-3, atol=1e-4)
    return found


def assert_skipped(dense: Count, sparse: Count, *, limit: float) -> None:
    share = sparse.instructions["all"] / dense.instructions["all"]
    assert share < limit, f"{sparse.runtime} executes {share:.2f} of the dense file's instructions, not {limit} or less"


@pytest.mark.needs("litert")
def test_litert_skips_zeros(tmp_path: Path) -> None:
    network = pruned(Separable())
    assert_skipped(*(counted(network, "litert", tmp_path, pack=pack) for pack in (False, True)), limit=0.6)


def test_executorchs_patched_runner_skips_zeros(tmp_path: Path) -> None:
    network = pruned(Separable())
    found = (counted(network, "executorch", tmp_path, pack=True, sparse=sparse) for sparse in (False, True))
    assert_skipped(*found, limit=0.6)


@pytest.mark.needs("mnn")
@pytest.mark.parametrize(
    ("network", "block", "limit"), [(Separable, 1, 0.85), (Separable, 4, 0.7), (Residual, 1, 0.95), (Residual, 4, 0.7)]
)
def test_mnn_skips_zeros(network: type[nn.Module], block: int, limit: float, tmp_path: Path) -> None:
    own = pruned(network(), block)
    assert_skipped(*(counted(own, "mnn", tmp_path, pack=pack) for pack in (False, True)), limit=limit)
