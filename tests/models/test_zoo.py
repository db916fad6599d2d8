from __future__ import annotations

import pytest
import torch

from dwindle.models.zoo import ZOO, BasicBlock


@pytest.mark.parametrize(
    ("name", "weights"),
    # 1x1 projections with their BN add 2,752 to He et al.'s 0.27M and 0.85M.
    [("resnet8", 78_042), ("resnet20", 272_474), ("resnet56", 855_770), ("mobilenetv2", 388_010)],
)
def test_sizes(name: str, weights: int) -> None:
    assert sum(parameter.numel() for parameter in ZOO[name]().parameters()) == weights


def test_resnet_depth_counts_convolutions_and_the_classifier() -> None:
    for depth in (8, 20, 56):
        network = ZOO[f"resnet{depth}"]()
        blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
        assert 2 * len(blocks) + 2 == depth


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 28, 20)])
def test_any_channels_and_size(name: str, shape: tuple[int, int, int]) -> None:
    network = ZOO[name](num_classes=7, in_channels=shape[0]).eval()
    assert network(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", ["resnet8", pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_export_traces_it(name: str) -> None:
    network, batch = ZOO[name](in_channels=1).eval(), torch.rand(2, 1, 28, 28)
    exported = torch.export.export(network, (batch,)).module()
    torch.testing.assert_close(exported(batch), network(batch))


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = ZOO["resnet8"]().state_dict()
    torch.manual_seed(3)
    second = ZOO["resnet8"]().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
