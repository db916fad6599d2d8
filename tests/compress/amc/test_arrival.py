"""However many rounds it takes, every layer ends at its own ratio."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.amc.arrival import arrival, channel_arrival, times
from dwindle.compress.amc.widths import Widths
from dwindle.compress.blocks import Blocks
from dwindle.compress.masks import mask_applier
from dwindle.compress.network import Network
from dwindle.compress.surgery.choice import choose, find_groups
from dwindle.compress.surgery.cut import cut
from dwindle.models.zoo import resnet8

SIZES = [(20, 30), (40, 20), (10, 40)]


@given(st.tuples(*(st.integers(1, a * b) for a, b in SIZES)), st.integers(1, 5), st.integers(0, 99))
def test_layers_arrive_together_in_any_number_of_rounds(kept: tuple[int, ...], rounds: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = Network(nn.Sequential(*(nn.Linear(b, a, bias=False) for a, b in SIZES)))
    sizes = [a * b for a, b in SIZES]
    granularity = Blocks(
        score=arrival({f"{i}.weight": k / n for i, (k, n) in enumerate(zip(kept, sizes, strict=True))})
    )
    share = sum(kept) / sum(sizes)
    for done in range(1, rounds + 1):
        granularity.shrink(network, share ** (done / rounds))
        for parameter in network.model.parameters():  # retraining moves the survivors
            parameter.data.add_(torch.randn_like(parameter))
        mask_applier(network.model, network.masks)()
    assert [int(mask.sum()) for mask in network.masks.values()] == list(kept)


def test_on_the_way_each_layer_has_gone_as_far_as_the_others() -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False)))
    Blocks(score=arrival({"0.weight": 0.5, "1.weight": 0.1})).shrink(network, (0.5**0.5 + 0.1**0.5) / 2)
    densities = [float(mask.float().mean()) for mask in network.masks.values()]
    assert densities == pytest.approx([0.5**0.5, 0.1**0.5], abs=1e-3)


def test_beyond_its_end_every_layer_goes_by_the_same_factor() -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False)))
    Blocks(score=arrival({"0.weight": 1.0, "1.weight": 0.1})).shrink(network, (1.0 + 0.1) / 2 / 5)
    densities = [float(mask.float().mean()) for mask in network.masks.values()]
    assert densities == pytest.approx([1.0 / 5, 0.1 / 5], abs=1e-3)


def test_the_smallest_goes_first_and_a_whole_layer_after_the_end() -> None:
    half = times(torch.tensor([[3.0, 1.0], [2.0, 4.0]]), 4, 0.5)
    assert 0 < half[0, 1] < half[1, 0] < 1 < half[0, 0] < half[1, 1]
    assert times(torch.tensor([3.0, 1.0, 2.0]), 3, 1.0).min() > 1


@pytest.mark.slow
def test_channels_arrive_at_the_widths_that_were_chosen() -> None:
    torch.manual_seed(0)
    model, inputs = resnet8(in_channels=1).eval(), (torch.randn(1, 1, 8, 8),)
    space = Widths(model, inputs, align=4)
    chosen = [layer.count(ratio) for layer, ratio in zip(space.layers, (0.5, 1.0, 0.25, 0.6, 0.3, 0.8), strict=True)]
    units = {layer.name: layer.units for layer in space.layers}
    ratios = {layer.name: kept / layer.units for layer, kept in zip(space.layers, chosen, strict=True)}
    score, found = channel_arrival(ratios, units), space.found
    for macs in ((space.cost(chosen) + found.macs()) / 2, space.cost(chosen)):
        found = find_groups(model, inputs)
        keep = choose(found, score(found, model), macs=macs, align=4)
        model = cut(model, keep)
    assert find_groups(model, inputs).units == chosen
