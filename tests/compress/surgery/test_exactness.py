"""The proof finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.compress.surgery.choice import cut, find_groups, prove
from dwindle.compress.surgery.cut import Keep, Slice
from dwindle.compress.surgery.exactness import TOLERANCE
from dwindle.compress.surgery.labels import Labels
from dwindle.errors import ParityFailed, UsageError

IMAGE = (torch.randn(1, 3, 8, 8),)


def network(*middle: nn.Module, last: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm, *middle, nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    )
    with torch.no_grad():
        model[-1].weight.mul_(last)
        model[-1].bias.mul_(last)
    return model


def half_of_the_first() -> Keep:
    """What is right for a network in which nothing stands between the norm and the next convolution."""
    found = find_groups(network(nn.ReLU()), IMAGE)
    return found.keep([torch.arange(4) if g.name == "0" else torch.arange(g.units) for g in found.groups])


def test_a_right_cut_passes() -> None:
    assert prove(network(nn.ReLU()), half_of_the_first(), IMAGE) < 1e-13


@pytest.mark.parametrize("wrong", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid(), nn.GroupNorm(1, 8, affine=False)])
@pytest.mark.parametrize("last", [1.0, 0.0], ids=["", "behind a last layer of zeros"])
def test_what_is_not_zero_at_zero_is_caught_and_the_layer_named(wrong: nn.Module, last: float) -> None:
    keep = half_of_the_first()
    keep = Keep({**keep.tensors, "3.weight": keep.tensors["3.weight"]}, {})
    with pytest.raises(ParityFailed, match=r"first at layer '3' \(relative difference"):
        prove(network(wrong, last=last), keep, IMAGE)


def test_a_norm_s_bias_left_behind_is_caught() -> None:
    keep = half_of_the_first()
    forgotten = Slice(0, keep.tensors["1.bias"][0].kept, 8, writes=False)
    with pytest.raises(ParityFailed, match="first at layer '1'"):
        prove(network(nn.ReLU()), Keep({**keep.tensors, "1.bias": (forgotten,)}), IMAGE)


def test_the_wrong_channels_are_caught() -> None:
    keep = half_of_the_first()
    shifted = Slice(1, keep.tensors["3.weight"][0].kept + 1, 8, writes=False)
    with pytest.raises(ParityFailed, match="first at layer '3'"):
        prove(network(nn.ReLU()), Keep({**keep.tensors, "3.weight": (shifted,)}), IMAGE)


def test_a_network_that_no_longer_runs_is_caught() -> None:
    keep = half_of_the_first()
    rest = {name: slices for name, slices in keep.tensors.items() if name != "3.weight"}
    with pytest.raises(ParityFailed, match=r"first at layer '3' or right after it \(relative difference inf"):
        prove(network(nn.ReLU()), Keep(rest), IMAGE)


def test_a_hole_in_the_rules_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were nothing ever pinned, what the rules should have pinned would fail the proof."""

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(nn.Softmax(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    real = Labels.pin
    monkeypatch.setattr(Labels, "pin", lambda self, labels, why: real(self, labels, why) if "model" in why else None)
    found = find_groups(Outputs(), IMAGE)
    keep = found.keep([torch.arange(4) if g.name == "net.0" else torch.arange(g.units) for g in found.groups])
    assert cut(Outputs(), keep).net[0].out_channels == 4
    with pytest.raises(ParityFailed, match=r"first at layer 'net\.3'"):
        prove(Outputs(), keep, IMAGE)


class Middle(nn.Module):
    """Two linear layers, a function of what they make, and a third."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.middle = middle
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.table = nn.Embedding(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.second(self.first(x).relu())))


def _grid(x: Tensor) -> Tensor:
    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 2), torch.linspace(-1, 1, 3), indexing="xy"), -1)
    return F.grid_sample(x.mT[:, :, None], grid[None], align_corners=True)[:, :, :, 0].mT


def _sinusoids(x: Tensor) -> Tensor:
    return x * torch.arange(x.shape[1])[:, None].div(7).sin()


def _autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return (x @ x.mT) @ x


def _attended(x: Tensor) -> Tensor:
    """With torch's own causal mask, which is float32."""
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return (x @ x.mT + mask).softmax(-1) @ x


FLOATS = (torch.randn(1, 4, 6),)
COARSE = {
    "zeros": lambda x: torch.matmul(torch.ones(x.shape[1], x.shape[1]), x),
    "grid": _grid,
    "sinusoids": _sinusoids,
    "float32 on the way": lambda x: x.float().relu().type_as(x),
    "autocast": _autocast,
    "causal mask": _attended,
}


@pytest.mark.parametrize("name", COARSE)
def test_a_network_of_float32_tensors_is_proven_as_closely_as_it_computes(name: str) -> None:
    model = Middle(COARSE[name])
    found = find_groups(model, FLOATS)
    assert sum(g.units for g in found.groups) >= 8
    keep = found.keep([torch.arange(0, group.units, 2) for group in found.groups])
    assert prove(model, keep, FLOATS) < 1e-4
    others = tuple(piece for piece in keep.tensors["second.weight"] if piece.dim == 0)
    shifted = Slice(1, (keep.tensors["first.weight"][0].kept + 1) % 8, 8, writes=False)
    wrong = Keep({**keep.tensors, "second.weight": (*others, shifted)})
    with pytest.raises(ParityFailed):
        prove(model, wrong, FLOATS)


def test_numbers_that_stand_for_something_stay_as_they_are() -> None:
    """Token ids in a float tensor: with noise they would be no rows of the table."""
    tokens = (torch.tensor([[0.0, 3.0, 4.0, 1.0]]),)

    class Tokens(Middle):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.table(x.long()))

    model = Tokens(torch.relu)
    found = find_groups(model, tokens)
    keep = found.keep([torch.arange(0, group.units, 2) for group in found.groups])
    assert {"first.weight", "table.weight"} <= keep.tensors.keys()
    assert prove(model, keep, tokens) < TOLERANCE


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, torch.finfo(torch.float16).min, float("-inf")])
@pytest.mark.parametrize("padding", [torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.ones(1, 4)])
def test_a_mask_of_lowest_values_does_not_overflow(lowest: float, padding: Tensor) -> None:
    class Masked(Middle):
        def forward(self, x: Tensor, padding: Tensor) -> Tensor:  # type: ignore[override]
            x = self.second(self.first(x).relu())
            lowest_of = torch.finfo(x.dtype).min if lowest == torch.finfo(torch.float32).min else lowest
            mask = torch.where(padding == 0, lowest_of, 0.0) if lowest == float("-inf") else (1 - padding) * lowest_of
            scores = x @ x.mT + mask[:, None]
            return self.last(scores.softmax(-1) @ x)

    inputs = (*FLOATS, padding)
    model = Masked(torch.relu)
    found = find_groups(model, inputs)
    keep = found.keep([torch.arange(0, group.units, 2) for group in found.groups])
    assert prove(model, keep, inputs) < TOLERANCE


def test_what_the_dense_network_does_not_take_is_no_wrong_cut() -> None:
    with pytest.raises(UsageError) as caught:
        prove(network(nn.ReLU()), half_of_the_first(), (torch.randn(1, 4, 8, 8),))
    assert (caught.value.code, caught.value.name) == ("bad-sample", "example_inputs")
    with pytest.raises(UsageError) as caught:
        prove(network(nn.Threshold(9e9, float("nan"))), half_of_the_first(), IMAGE)
    assert caught.value.code == "bad-sample"
