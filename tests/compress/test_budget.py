"""The solver meets every budget that can be met, from below and closely, and says so when it can't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import SLACK, Budget, Solver
from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Network
from dwindle.errors import BudgetMissed, UsageError

FIXED = 1000


def packed_bytes(model: nn.Module) -> int:
    """As a packer counts: per layer, dense or a bitmask beside the survivors, whichever is smaller."""
    return FIXED + sum(min(4 * w.numel(), (w.numel() + 7) // 8 + 4 * int((w != 0).sum())) for w in model.parameters())


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(nn.Sequential(nn.Linear(64, 128, bias=False), nn.Linear(128, 32, bias=False)))


def solver(budget: Budget) -> Solver:
    return Solver(budget, Blocks(), packed_bytes, "onnx")


@settings(max_examples=40)
@given(st.integers(2600, 50_000), st.integers(0, 5))
def test_every_reachable_size_is_met_within_the_slack(size: int, seed: int) -> None:
    net = network(seed)
    share = solver(Budget(size=size)).largest_share(net)
    Blocks().shrink(net, share)
    assert size * (1 - SLACK) - 4 <= packed_bytes(net.model) <= size


@settings(max_examples=20)
@given(st.integers(2540, 50_000), st.sampled_from([0.0025, 0.05, 0.5]))
def test_what_is_reserved_stays_free_where_it_can(size: int, reserve: float) -> None:
    net = network()
    Blocks().shrink(net, replace(solver(Budget(size=size)), reserve=reserve).largest_share(net))
    least = 2536  # with everything pruned
    assert packed_bytes(net.model) <= max(size * (1 - reserve), least)
    assert packed_bytes(net.model) >= min(size * (1 - reserve - SLACK) - 4, 34_000)


def test_both_limits_hold_when_both_are_given() -> None:
    for budget in (Budget(size=30_000, density=0.1), Budget(size=6_000, density=0.9)):
        net = network()
        Blocks().shrink(net, solver(budget).largest_share(net))
        assert packed_bytes(net.model) <= budget.size
        assert Blocks().share(net) <= budget.density


def test_a_size_below_the_rest_names_the_smallest() -> None:
    with pytest.raises(BudgetMissed, match="for onnx still has 2,536 bytes") as raised:
        solver(Budget(size=2_000)).check_feasible(network())
    assert (raised.value.code, raised.value.option) == ("out-of-reach", "size")
    with pytest.raises(BudgetMissed) as later:  # what training made of a network that was within reach
        solver(Budget(size=2_000)).largest_share(network())
    assert (later.value.code, later.value.option) == ("out-of-reach", "size")


def test_a_density_below_what_the_pattern_leaves_is_refused_before_training() -> None:
    with pytest.raises(BudgetMissed, match=r"40\.0% cannot be reached: .* is 50\.0%") as raised:
        Solver(Budget(density=0.4), NofM(2, 4), packed_bytes, "onnx").check_feasible(network())
    assert (raised.value.code, raised.value.option) == ("out-of-reach", "density")


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(size=10**9), r"bytes as onnx are within 1\.00 GB; give less, such as `size` \d+, or `method` keep"),
        (
            Budget(density=1.0),
            r"a density of 100\.0% keeps every weight; .* 20%, or `method` keep",
        ),
        (Budget(macs=1.0), r"MACs are within [\d,]+; give less, such as `macs` 50%, or `method` keep"),
        (
            Budget(size=10**9, density=1.0),
            r"within 1\.00 GB, and a density of .*; .* \d+, or `method` keep",
        ),
    ],
)
def test_a_limit_the_dense_network_meets_is_refused(budget: Budget, says: str) -> None:
    with pytest.raises(UsageError, match=f"nothing to prune: .*{says}") as raised:
        solver(budget).check_feasible(Network(network().model, (torch.zeros(1, 64),)))
    assert raised.value.code == "nothing-to-prune"


def test_no_budget_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        Budget()
    assert refused.value.code == "no-budget"
