"""Scores and the choice: budgets, alignment, limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import best, choose, cut, find_groups, score, step
from dwindle.errors import BudgetMissed

IMAGE = (torch.randn(1, 3, 16, 16),)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 40, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(40, 40, 3, groups=10),
        nn.Conv2d(40, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 9, 1),
    )


MODEL = network()
FOUND = find_groups(MODEL, IMAGE)
SCORES = score(FOUND, MODEL)


def widths(model: nn.Module) -> list[int]:
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_a_unit_s_score_is_its_size_relative_to_its_group() -> None:
    with torch.no_grad():
        model = network()
        for tensor in (model[0].weight, model[0].bias, model[1].weight, model[1].bias):
            tensor[5] = 0
        model[3].weight[:, 5] = 0
        first = dict(zip((g.name for g in FOUND.groups), score(FOUND, model), strict=True))["0"]
        assert first[5] == 0
        assert first.argmin() == 5
        model[0].weight *= 100  # what a layer's scale is says nothing about its channels
        model[3].weight[:, 7] *= 3
        again = dict(zip((g.name for g in FOUND.groups), score(FOUND, model), strict=True))["0"]
        assert again[7] > first[7]
    for scores in SCORES:
        torch.testing.assert_close(scores.mean(), torch.tensor(1.0))


@pytest.mark.slow
@settings(max_examples=60, derandomize=True)
@given(st.floats(0.1, 1.0), st.sampled_from([1, 2, 4, 8]))
def test_budgets_hold_on_aligned_widths_with_little_to_spare(share: float, align: int) -> None:
    target = share * FOUND.macs()
    try:
        keep = choose(FOUND, SCORES, macs=target, align=align)
    except BudgetMissed:
        assert FOUND.macs([min(g.units, step(g, align)) for g in FOUND.groups]) > target
        return
    small = cut(MODEL, keep)
    spent = sum(macs(small, IMAGE).values())
    assert spent <= target
    assert all(new == old or new % align == 0 for new, old in zip(widths(small), widths(MODEL), strict=True))
    assert small[5].out_channels % 4 == 0  # whole groups
    assert all(len(s.kept) > 0 for slices in keep.tensors.values() for s in slices)
    largest_step = 0.0
    for index, group in enumerate(FOUND.groups):
        less = list(FOUND.units)
        less[index] = (group.units - 1) // step(group, align) * step(group, align)
        largest_step = max(largest_step, FOUND.macs() - FOUND.macs(less))
    assert spent > target - largest_step


def test_the_smallest_units_go_first_over_all_layers() -> None:
    keep = choose(FOUND, SCORES, share=0.5, align=1)
    gone, stays = [], []
    for group, scores in zip(FOUND.groups, SCORES, strict=True):
        place = group.places[0]
        kept_indices = next(s.kept for s in keep.tensors[place.tensor] if s.dim == place.dim)
        kept = torch.isin(place.indices[:, 0], kept_indices)
        gone.append(scores[~kept])
        stays.append(scores[kept])
    assert torch.cat(gone).max() <= torch.cat(stays).min()
    assert len(torch.cat(stays)) == len(torch.cat(SCORES)) // 2


def test_limits_by_layer_and_on_parameters() -> None:
    count = sum(p.numel() for p in MODEL.parameters())
    small = cut(MODEL, choose(FOUND, SCORES, parameters=0.4 * count, align=1))
    assert 0.35 * count < sum(p.numel() for p in small.parameters()) <= 0.4 * count
    spared = cut(MODEL, choose(FOUND, SCORES, macs=0.4 * FOUND.macs(), align=1, whole={"0.weight"}))
    assert spared[0].out_channels == 24
    gentle = cut(
        MODEL,
        choose(FOUND, SCORES, macs=0.6 * FOUND.macs(), align=1, at_least=of_each(0.6)),
    )
    assert all(new >= 0.6 * old for new, old in zip(widths(gentle), widths(MODEL), strict=True))
    with pytest.raises(BudgetMissed, match=r"leaves [\d,]+ MACs \(\d+%\), not"):
        choose(FOUND, SCORES, macs=0.6 * FOUND.macs(), align=1, at_least=of_each(0.9))


def test_no_layer_is_ever_emptied() -> None:
    with pytest.raises(BudgetMissed, match="last multiple of 8 in every layer leaves"):
        choose(FOUND, SCORES, macs=1)
    smallest = cut(MODEL, best(FOUND, SCORES, [1] * len(FOUND.groups)))
    assert widths(smallest) == [1, 4, 4, 1, 9]
    assert sum(macs(smallest, IMAGE).values()) == FOUND.macs([1] * len(FOUND.groups))


def test_a_budget_that_already_holds_removes_nothing() -> None:
    assert not choose(FOUND, SCORES, macs=FOUND.macs()).tensors


def of_each(share: float) -> list[int]:
    return [math.ceil(share * units) for units in FOUND.units]
