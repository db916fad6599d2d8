from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export.fold import Pair, deployable, foldable, short_names, tensors

Inputs = tuple[Tensor, ...]


def assert_equal_outputs(module: nn.Module, shipped: nn.Module, inputs: Inputs) -> None:
    reference = copy.deepcopy(module).eval()
    with torch.no_grad():
        torch.testing.assert_close(shipped(*inputs), reference(*inputs), rtol=1e-5, atol=1e-5)


def test_every_batch_norm_of_a_resnet_folds(network: nn.Module, samples: Inputs) -> None:
    shipped = deployable(network, (samples[0][:1],))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in shipped.modules())
    assert not shipped.training
    assert_equal_outputs(network, shipped, samples)


def test_the_module_itself_stays_as_it_was(network: nn.Module, example: Inputs) -> None:
    before = copy.deepcopy(network.state_dict())
    deployable(network, example)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5])
def test_zeros_stay_zeros_and_none_is_negative(
    network: nn.Module, example: Inputs, masked: Callable[..., nn.Module], density: float
) -> None:
    pruned = {name: p == 0 for name, p in masked(network, density).named_parameters() if p.dim() > 1}
    assert any(torch.signbit(p[p == 0]).any() for p in network.parameters())
    held = tensors(deployable(network, example))
    for name, zeros in pruned.items():
        assert torch.equal(held[name] == 0, zeros)
    assert not any(torch.signbit(tensor[tensor == 0]).any() for tensor in held.values())


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat, self.flat_norm = nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)
        self.deep, self.deep_norm = nn.Linear(5, 4), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.flat_norm(self.flat(x))
        return self.deep_norm(self.deep(flat.unsqueeze(1).expand(-1, 3, -1)))


def test_a_linear_layer_folds_where_its_outputs_are_the_norms_channels(trained: Callable[..., nn.Module]) -> None:
    network, inputs = trained(Linears()), (torch.randn(2, 6),)
    assert foldable(network, inputs) == (Pair("flat", "flat_norm"),)
    assert_equal_outputs(network, deployable(network, inputs), inputs)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.up_norm = nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6)
        self.grouped, self.grouped_norm = nn.ConvTranspose2d(6, 6, 2, 2, groups=2), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.grouped_norm(self.grouped(self.up_norm(self.up(x))))


def test_a_transposed_convolution_folds_unless_it_is_grouped(trained: Callable[..., nn.Module]) -> None:
    network, inputs = trained(Transposed()), (torch.randn(1, 4, 3, 3),)
    assert foldable(network, inputs) == (Pair("up", "up_norm"),)
    assert_equal_outputs(network, deployable(network, inputs), inputs)


class Shared(nn.Module):
    """A convolution called twice, one whose output is read twice, and one that computes its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.first, self.second = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fork, self.fork_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.made = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.made_norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.twice(self.first(self.twice(x))))
        fork = self.fork(x)
        return self.made_norm(self.made(fork + self.fork_norm(fork)))


def test_what_something_else_reads_is_not_folded(trained: Callable[..., nn.Module]) -> None:
    network, inputs = trained(Shared()), (torch.randn(1, 4, 3, 3),)
    assert foldable(network, inputs) == ()
    assert_equal_outputs(network, deployable(network, inputs), inputs)


def test_short_names_differ_and_are_stable(network: nn.Module) -> None:
    names = short_names(network)
    assert list(names) == list(tensors(network))
    assert len(set(names.values())) == len(names)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_torch_cannot_trace_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError) as refused:
        deployable(Branching(), (torch.ones(1, 2),))
    assert (refused.value.code, refused.value.name) == ("not-traceable", "Branching")
    assert "\n" not in str(refused.value)


def test_inputs_that_no_file_takes_are_refused() -> None:
    network = nn.Linear(2, 2).double()
    with pytest.raises(UsageError) as refused:
        deployable(network, (torch.ones(1, 2, dtype=torch.float64),))
    assert (refused.value.code, refused.value.name) == ("wrong-dtype", "example_inputs")
