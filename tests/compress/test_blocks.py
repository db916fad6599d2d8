"""Weight pruning keeps as many weights as asked, the highest-scoring, and never brings one back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.blocks import Blocks, keep_highest
from dwindle.compress.masks import density, mask_applier, masks_hold, prunable
from dwindle.compress.network import Network

shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)
kernels = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 2), st.integers(1, 2))


@given(shapes, st.data())
def test_exactly_count_survive_and_they_are_the_highest(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    scores = {str(i): torch.rand(size, generator=generator) for i, size in enumerate(sizes)}
    total = sum(score.numel() for score in scores.values())
    count = data.draw(st.integers(0, total))
    masks = keep_highest(scores, ones(scores), {}, count)
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    kept = torch.cat([score[masks[name]] for name, score in scores.items()])
    gone = torch.cat([score[~masks[name]] for name, score in scores.items()])
    if len(kept) and len(gone):
        assert kept.min() >= gone.max()


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), st.data())
def test_those_that_are_kept_are_a_stable_sort_s_first(values: list[float], data: st.DataObject) -> None:
    scores, count = {"a": torch.tensor(values)}, data.draw(st.integers(0, len(values)))
    kept = keep_highest(scores, ones(scores), {}, count)["a"].nonzero()[:, 0].tolist()
    assert kept == sorted(sorted(range(len(values)), key=lambda place: -values[place])[:count])


def ones(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(score, dtype=torch.int64) for name, score in scores.items()}


@given(kernels, st.sampled_from([1, 2, 3, 4, 8, 16]), st.integers(1, 8), st.floats(0, 1), st.integers(0, 99))
def test_a_block_goes_or_stays_as_one(
    shape: tuple[int, int, int, int], rows: int, columns: int, share: float, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(shape[1], shape[0], shape[2:])
    network = Network(nn.Sequential(conv))
    Blocks(rows, columns).shrink(network, share)
    mask = network.masks["0.weight"]
    for block_of_rows in mask.split(rows, 0):
        for block in block_of_rows.split(columns, 1):
            for position in block.flatten(2).unbind(2):
                assert position.all() or not position.any()
    assert mask.sum() <= round(share * mask.numel())
    assert mask.sum() > round(share * mask.numel()) - rows * columns


@given(kernels, st.integers(0, 99))
def test_the_blocks_sizes_add_up_to_the_weights(shape: tuple[int, int, int, int], seed: int) -> None:
    blocks, weight = Blocks(4, 2), torch.zeros(shape)
    counts = blocks._count(weight)
    ones_everywhere = torch.ones_like(counts, dtype=torch.bool)
    assert counts.sum() == weight.numel()
    assert blocks._expand(ones_everywhere, weight).all()


@given(shapes, st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(0, 99))
def test_what_is_pruned_stays_pruned(sizes: list[tuple[int, int]], shares: list[float], seed: int) -> None:
    torch.manual_seed(seed)
    network = Network(nn.Sequential(*(nn.Linear(*size) for size in sizes)))
    before: dict[str, torch.Tensor] = {}
    for share in sorted(shares, reverse=True):
        Blocks().shrink(network, share)
        assert all((~before[name] & network.masks[name]).sum() == 0 for name in before)
        assert masks_hold(network.model, network.masks)
        before = network.masks
        for parameter in network.model.parameters():  # training moves the survivors
            parameter.data.add_(torch.randn_like(parameter))
        mask_applier(network.model, network.masks)()


def test_ties_are_broken_the_same_way_everywhere() -> None:
    scores = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    masks = keep_highest(scores, ones(scores), {}, 3)
    assert masks["a"].tolist() == [[True, True], [True, False]]
    assert not masks["b"].any()


def test_a_weight_that_became_zero_is_still_ranked_above_a_pruned_one() -> None:
    scores = {"a": torch.tensor([[0.0, 0.0, 5.0]])}
    masks = keep_highest(scores, ones(scores), {"a": torch.tensor([[True, False, True]])}, 2)
    assert masks["a"].tolist() == [[True, False, True]]


def test_biases_norms_and_frozen_weights_are_not_prunable() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 2))
    model[4].weight.requires_grad_(False)
    assert set(prunable(model)) == {"0.weight", "3.weight"}


def test_layer_scale_and_tokens_are_not_prunable_but_attention_is() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
            self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.attention = nn.MultiheadAttention(4, 2)

    assert set(prunable(Block())) == {"attention.in_proj_weight", "attention.out_proj.weight"}


def test_masks_hold_after_a_step_with_momentum_and_weight_decay() -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(network.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        network.model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()

    step()
    Blocks().shrink(network, 0.5)
    step()
    assert not masks_hold(network.model, network.masks), "without the call momentum moves pruned weights"
    mask_applier(network.model, network.masks)()
    assert masks_hold(network.model, network.masks)
    assert density(network.masks) == 0.5
