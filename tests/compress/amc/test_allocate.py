"""What AMC chose is where pruning ends, in one round or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.amc.allocate import LEAST, allocate, check
from dwindle.compress.amc.search import Settings
from dwindle.compress.blocks import Blocks
from dwindle.compress.channels import Channels
from dwindle.compress.layers import Layers
from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Network
from dwindle.errors import UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.zoo import resnet8

QUICK = Settings(episodes=6, warmup=4)


class Images:
    """Judges by how near the answers to some noise are to the dense network's."""

    def __init__(self, model: nn.Module) -> None:
        self.x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.answers = model(self.x).detach()

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> float:
        return -float((model(self.x) - self.answers).square().mean())

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return (self.x,)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.x[:1],)


def network() -> Network:
    torch.manual_seed(0)
    return Network(resnet8(in_channels=1).eval(), inputs=(torch.zeros(1, 1, 8, 8),))


@pytest.mark.parametrize("shares", [(0.3,), (0.6, 0.4, 0.3)])
def test_weights_end_at_the_chosen_densities(tmp_path: Path, shares: tuple[float, ...]) -> None:
    net = network()
    layers = Layers(exclude=("classifier",))
    pruning, result = allocate(tmp_path, net, Blocks(layers=layers), CheckedTask(Images(net.model)), 0.3, QUICK)
    for share in shares:
        pruning.shrink(net, share)
    assert "classifier.weight" not in result.names
    kept = {name: int(mask.sum()) for name, mask in net.masks.items()}
    # The walk may leave a few weights of the budget unspent, where no layer could take one more.
    assert sum(abs(kept[name] - k) for name, k in zip(result.names, result.amc.kept, strict=True)) <= len(kept)
    assert sum(kept.values()) == round(0.3 * result.whole)


def test_so_few_weights_that_no_network_is_better_than_chance_are_not_searched_for(tmp_path: Path) -> None:
    net = network()
    pruning, result = allocate(tmp_path, net, Blocks(), CheckedTask(Images(net.model)), 0.05, QUICK)
    assert result.budget == LEAST * result.whole
    pruning.shrink(net, 0.05)
    factor = 0.05 * result.whole / sum(result.amc.kept)
    for name, kept in zip(result.names, result.amc.kept, strict=True):
        assert int(net.masks[name].sum()) == pytest.approx(kept * factor, abs=1)


@pytest.mark.slow
def test_channels_end_at_the_chosen_widths(tmp_path: Path) -> None:
    net = network()
    pruning, result = allocate(tmp_path, net, Channels(align=4), CheckedTask(Images(net.model)), 0.5, QUICK)
    for cost in (0.7 * result.whole, result.amc.cost):
        pruning.shrink(net, cost / result.whole)
    assert net.macs == result.amc.cost
    widths = {name: net.model.get_submodule(name).out_channels for name in result.names}
    assert widths == dict(zip(result.names, result.amc.kept, strict=True))


def test_a_later_round_reads_what_was_found(tmp_path: Path) -> None:
    net = network()
    task = Images(net.model)
    pruning, result = allocate(tmp_path, net, Blocks(), CheckedTask(task), 0.1, QUICK)
    pruning.shrink(net, 0.5)
    task.answers = None  # nothing can be judged any more
    assert allocate(tmp_path, net, Blocks(), CheckedTask(task), 0.1, QUICK)[1] == result


@pytest.mark.parametrize("pruning", [Blocks(4, 1), NofM(2, 4)])
def test_other_granularities_are_refused(pruning: Blocks | NofM) -> None:
    with pytest.raises(UsageError) as refused:
        check(pruning)
    assert refused.value.option == "granularity"
