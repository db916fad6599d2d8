from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Network
from dwindle.errors import UsageError


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_of_every_four_input_channels_two_survive_and_they_are_the_largest(
    out: int, groups: int, kernel: int, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(4 * groups, out, kernel)
    dense = conv.weight.detach().clone()
    network = Network(nn.Sequential(conv))
    for share in (0.8, 0.6, 0.1):  # down to 3:4, then 2:4, then no further
        NofM(2, 4).shrink(network, share)
    fours = network.masks["0.weight"].movedim(1, -1).unflatten(-1, (-1, 4))
    assert (fours.sum(-1) == 2).all()
    largest = dense.abs().movedim(1, -1).unflatten(-1, (-1, 4)).topk(2).values.sum(-1)
    left = conv.weight.detach().abs().movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1)
    assert torch.allclose(left, largest)


@given(st.sampled_from([(1, 2), (1, 4), (3, 8), (4, 16), (15, 16)]), st.integers(1, 3), st.integers(0, 99))
def test_patterns_of_up_to_sixteen(pattern: tuple[int, int], groups: int, seed: int) -> None:
    n, m = pattern
    torch.manual_seed(seed)
    network = Network(nn.Sequential(nn.Linear(m * groups, 5)))
    NofM(n, m).shrink(network, 0.0)
    assert (network.masks["0.weight"].unflatten(-1, (-1, m)).sum(-1) == n).all()
    assert NofM(n, m).share(network) == n / m


def test_layers_that_do_not_divide_stay_dense() -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)))
    NofM().shrink(network, 0.5)
    assert list(network.masks) == ["1.weight"]
    assert NofM().share(network) == 0.5


def test_nowhere_to_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 4") as raised:
        NofM().shrink(Network(nn.Sequential(nn.Conv2d(3, 8, 3))), 0.5)
    assert (raised.value.code, raised.value.option) == ("nothing-to-prune", "granularity")
