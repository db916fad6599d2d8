"""A weight that is computed in forward is cut with what it is computed from, as far as that is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.compress.surgery.choice import cut, find_groups, prove
from dwindle.compress.surgery.computed import computed_weights
from dwindle.compress.surgery.groups import Found
from dwindle.compress.surgery.labels import Computed
from dwindle.compress.surgery.trace import trace
from dwindle.errors import UsageError

IMAGE = (torch.randn(1, 3, 8, 8),)

Layer = Callable[[int, int], nn.Module]


class Convolution(nn.Conv2d):
    """A convolution whose weight is computed in its forward."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(outputs, 1, 1, 1) + 0.5)

    def made(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.made(), self.bias, padding=1)


class Scaled(Convolution):
    """By a number (an equalised learning rate) and by one of each channel."""

    def made(self) -> Tensor:
        return self.weight * self.gain * 0.3


class Rounded(Convolution):
    def made(self) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(self.weight, 0.01, 0, -128, 127)


class RoundedByItsLargest(Convolution):
    """The scale of each row is that row's."""

    def made(self) -> Tensor:
        scale = self.weight.abs().amax((1, 2, 3), keepdim=True) / 127 + 1e-9
        return (self.weight / scale).round() * scale


class Cast(Convolution):
    def made(self) -> Tensor:
        return self.weight.half().to(self.weight.dtype)


class Causal(Convolution):
    """Some of its weights are never used, as in PixelCNN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("seen", (torch.arange(9).view(3, 3) < 5).float().expand(outputs, inputs, 3, 3).clone())

    def made(self) -> Tensor:
        return self.weight * self.get_buffer("seen")


class Standardised(Convolution):
    """As timm's ScaledStdConv2d does it."""

    def made(self) -> Tensor:
        flat, gain = self.weight.reshape(1, self.out_channels, -1), self.gain.view(-1)
        return F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6).reshape_as(
            self.weight
        )


class Undefined(Convolution):
    """Of zeros it makes no number."""

    def made(self) -> Tensor:
        return self.weight / self.weight.std((1, 2, 3), keepdim=True)


class Shared(Convolution):
    """Its computed weight is an output's part too."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.weight * 2
        return F.conv2d(x, made, padding=1) + made.mean()


def network(layer: Layer) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.ReLU(), layer(8, 12), nn.ReLU(), layer(12, 10), nn.ReLU(), nn.Conv2d(10, 4, 1))
    ).eval()


def units(found: Found) -> list[int]:
    return sorted(group.units for group in found.groups)


def halved(model: nn.Module, *, inexact: bool = False) -> nn.Module:
    found = find_groups(model, IMAGE, inexact=inexact)
    keep = found.keep([torch.arange(n)[1::2] for n in found.units])
    if not inexact:
        prove(model, keep, IMAGE)
    return cut(model, keep)


@pytest.mark.parametrize("layer", [Scaled, Rounded, Cast, Causal])
def test_elementwise_weights_are_cut_exactly_both_ways(layer: Layer) -> None:
    model = network(layer)
    assert units(find_groups(model, IMAGE)) == [8, 10, 12]
    small = halved(model)
    assert [small[i].weight.shape[:2] for i in (0, 2, 4, 6)] == [(4, 3), (6, 4), (5, 6), (4, 5)]
    assert small[2].gain.shape == ((6, 1, 1, 1) if layer is Scaled else (12, 1, 1, 1))


@pytest.mark.parametrize("layer", [Standardised, RoundedByItsLargest])
def test_rows_normalised_over_their_columns_lose_columns_inexactly_alone(layer: Layer) -> None:
    model = network(layer)
    assert units(find_groups(model, IMAGE)) == [10]
    small = halved(model, inexact=True)
    assert [small[i].weight.shape[:2] for i in (0, 2, 4, 6)] == [(4, 3), (6, 4), (5, 6), (4, 5)]
    assert small(*IMAGE).isfinite().all()


def normed(inputs: int, outputs: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(inputs, outputs, 3, padding=1))


def test_weight_norm_goes_row_by_row_by_its_lengths() -> None:
    model = network(normed)
    model[6] = normed(10, 4)
    assert units(find_groups(copy.deepcopy(model), IMAGE, inexact=True)) == [8, 10, 12]
    with pytest.raises(UsageError) as refused:
        find_groups(model, IMAGE)
    assert refused.value.code == "nothing-to-prune"
    model[6] = nn.Conv2d(10, 4, 1)
    small = halved(model)
    lengths, directions = (getattr(small[4].parametrizations.weight, f"original{i}") for i in (0, 1))
    assert (lengths.shape, directions.shape) == ((5, 1, 1, 1), (5, 12, 3, 3))


def test_weight_norm_by_the_places_of_a_kernel_is_inexact() -> None:
    """As wav2vec 2.0's convolution of positions has it."""

    def by_place(inputs: int, outputs: int) -> nn.Module:
        return nn.utils.parametrizations.weight_norm(nn.Conv2d(inputs, outputs, (3, 1), padding=(1, 0)), dim=2)

    with pytest.raises(UsageError):
        find_groups(network(by_place), IMAGE)
    small = halved(network(by_place), inexact=True)
    assert small[2].parametrizations.weight.original1.shape == (6, 4, 3, 1)


@pytest.mark.parametrize("layer", [Undefined, Shared])
def test_what_makes_no_zeros_or_is_read_elsewhere_is_kept_whole(layer: Layer) -> None:
    with pytest.raises(UsageError) as refused:
        find_groups(network(layer), IMAGE)
    assert refused.value.code == "nothing-to-prune"


def test_what_a_weight_is_computed_from_is_told() -> None:
    found = [one for one in computed_weights(trace(network(Standardised), IMAGE)).values() if one is not None]
    assert [type(one) for one in found] == [Computed, Computed]
    assert [[(s.tensor, s.dim, s.silences) for s in dim] for dim in found[0].sources] == [
        [("2.weight", 0, True), ("2.gain", 0, True)],
        [("2.weight", 1, False)],
    ]
    assert found[0].mixed == (False, True)
