"""Cutting modules and the tensors that go with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dwindle.compress.surgery.cut import Keep, Slice, cut, cut_tensors, masked
from dwindle.errors import UsageError


def keeping(size: int, kept: list[int], dim: int = 0, writes: bool = True) -> Slice:
    return Slice(dim, torch.tensor(kept), size, writes)


def test_layers_keep_the_right_rows_and_say_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.PReLU(6), nn.ConvTranspose2d(6, 4, 2))
    kept = [1, 2, 5]
    keep = Keep(
        {
            "0.weight": (keeping(6, kept),),
            "0.bias": (keeping(6, kept),),
            **{f"1.{name}": (keeping(6, kept),) for name in ("weight", "bias", "running_mean", "running_var")},
            "2.weight": (keeping(6, kept, writes=False),),
            "3.weight": (keeping(6, kept, writes=False), keeping(4, [0, 3], dim=1)),
            "3.bias": (keeping(4, [0, 3]),),
        }
    )
    model[0].weight.requires_grad_(False)
    small = cut(model, keep)
    assert torch.equal(small[0].weight, model[0].weight[kept])
    assert torch.equal(small[1].running_var, model[1].running_var[kept])
    assert torch.equal(small[3].weight, model[3].weight[kept][:, [0, 3]])
    sizes = small[0].out_channels, small[1].num_features, small[2].num_parameters
    assert sizes == (3, 3, 3)
    assert (small[3].in_channels, small[3].out_channels) == (3, 2)
    assert [p.requires_grad for p in small[0].parameters()] == [False, True]
    assert model[0].out_channels == 6
    small[0].bias.data.zero_()  # nothing is shared with what was cut
    small[1].num_batches_tracked += 1
    assert model[0].bias.any()
    assert model[1].num_batches_tracked == 0


def test_masking_silences_what_writes_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    keep = Keep({"0.weight": (keeping(3, [0, 2]),), "1.weight": (keeping(3, [0, 2], dim=1, writes=False),)})
    silent = masked(model, keep)
    assert not silent[0].weight[1].any()
    assert torch.equal(silent[0].weight[[0, 2]], model[0].weight[[0, 2]])
    assert torch.equal(silent[1].weight, model[1].weight)
    assert model[0].weight[1].any()


def test_tensors_named_after_parameters_are_cut_alike() -> None:
    keep = Keep({"a.weight": (keeping(4, [0, 3]), keeping(3, [1], dim=1, writes=False))})
    momentum = {"a.weight": torch.arange(12.0).view(4, 3), "a.bias": torch.ones(5)}
    small = cut_tensors(momentum, keep)
    assert small["a.weight"].tolist() == [[1.0], [10.0]]
    assert small["a.bias"].tolist() == [1.0] * 5
    assert cut_tensors({"a.weight": torch.tensor(7)}, keep)["a.weight"] == 7  # a step count
    with pytest.raises(UsageError, match=r"shape \(3, 4\) cannot be cut with a.weight"):
        cut_tensors({"a.weight": torch.zeros(3, 4)}, keep)


def test_training_goes_on_with_the_momentum_that_was_left() -> None:
    """One more step after a cut moves the survivors as it would have moved them, masked, in the whole network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    kept = [0, 1, 4]
    rows, columns = keeping(6, kept), keeping(6, kept, dim=1, writes=False)
    keep = Keep({"0.weight": (rows,), "0.bias": (rows,), "2.weight": (columns,)})
    x, y = torch.randn(16, 4), torch.randn(16, 2)

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        step(model, optimizer)
    small = cut(model, keep)
    fresh = torch.optim.SGD(small.parameters(), 0.1, momentum=0.9)
    named = {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    for name, buffer in cut_tensors(named, keep).items():
        fresh.state[small.get_parameter(name)]["momentum_buffer"] = buffer
    whole = masked(model, keep)
    reference = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9)
    for name, buffer in named.items():
        reference.state[whole.get_parameter(name)]["momentum_buffer"] = buffer.clone()
    step(small, fresh)
    step(whole, reference)
    torch.testing.assert_close(small[2].bias, whole[2].bias)
    torch.testing.assert_close(small[0].weight, whole[0].weight[kept])


def test_a_cut_leaves_a_spectral_norm_in_training_and_its_vectors_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), nn.Linear(3, 5))
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    keep = Keep({"2.weight": (keeping(5, [0, 2]),)})
    small = cut(model.train(), keep)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.named_buffers())
    assert all(module.training for module in small.modules())
