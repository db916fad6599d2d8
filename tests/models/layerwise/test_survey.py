from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.compress.masks import prunable
from dwindle.compress.recalibrate import recalibrate
from dwindle.errors import DwindleError, UsageError
from dwindle.models.layerwise.parts import with_parts
from dwindle.models.layerwise.survey import Survey, survey
from dwindle.models.zoo import mobilenetv2, resnet8


def surveyed(model: nn.Module, batch: tuple[Tensor, ...]) -> Survey:
    return survey(model, batch, prunable(model))


class Mixed(nn.Module):
    """A layer of every kind that can and can't be solved."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.twice = nn.Linear(6, 6)
        self.tied, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.tied.weight
        self.past = nn.Linear(6, 6)
        self.last, self.first = nn.Linear(6, 3), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(self.table(tokens))
        x, _ = self.recurrent(self.attention(x, x, x)[0])
        x = self.other(self.tied(self.twice(self.twice(x))))
        logits: Tensor = self.last(functional.linear(x, self.past.weight).mean(1))
        return logits


def test_what_can_be_solved_comes_in_the_order_of_the_forward_pass_and_what_cannot_says_why() -> None:
    found = surveyed(Mixed(), (torch.randint(0, 7, (4, 5)),))
    assert tuple(found.layers) == ("first", "last")
    assert "table.weight" not in found.left, "what is left of an embedding's rows is best as it is"
    assert "LSTM" in found.left["recurrent.weight_ih_l0"] or "forward" in found.left["recurrent.weight_ih_l0"]
    assert "2 times" in found.left["twice.weight"]
    assert "share" in found.left["tied.weight"]
    assert found.left.keys() == {
        "attention.in_proj_weight", "attention.out_proj.weight",
        "recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "twice.weight", "tied.weight", "past.weight",
    }  # fmt: skip


def test_matrices_within_layers_are_found_where_they_are_modules() -> None:
    model = Mixed()
    with with_parts(model):
        found = surveyed(model, (torch.randint(0, 7, (4, 5)),))
    assert found.layers == {
        "first": "first.weight",
        "attention.in_proj": "attention.in_proj_weight",
        "attention.out_proj": "attention.out_proj.weight",
        "recurrent.ih_l0": "recurrent.weight_ih_l0",
        "recurrent.hh_l0": "recurrent.weight_hh_l0",
        "last": "last.weight",
    }
    assert found.left.keys() == {"twice.weight", "tied.weight", "past.weight"}


def test_a_layer_too_wide_for_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.models.layerwise.survey.WIDEST", 10)
    model = nn.Sequential(nn.Linear(11, 3), nn.Linear(3, 2))
    found = surveyed(model, (torch.randn(4, 11),))
    assert tuple(found.layers) == ("1",)
    assert "11 inputs" in found.left["0.weight"]


@pytest.mark.parametrize("make", [resnet8, mobilenetv2])
def test_layers_before_a_batch_norm_are_known_and_every_layer_of_the_zoo_can_be_solved(make: type[nn.Module]) -> None:
    model = make(num_classes=3, in_channels=1).eval()
    found = surveyed(model, (torch.randn(4, 1, 16, 16),))
    assert not found.left
    assert list(found.layers)[-1] == "classifier"
    assert found.before_norm == set(found.layers) - {"classifier"}


@pytest.mark.parametrize(("scale", "shift", "warned"), [(1, 0, 0), (1.2, 0.1, 0), (50, 0, 1), (1, 9, 1)])
def test_samples_of_another_scale_than_training_showed_are_said(scale: float, shift: float, warned: int) -> None:
    torch.manual_seed(0)
    model, samples = resnet8(num_classes=3, in_channels=1).eval(), torch.randn(64, 1, 12, 12)
    recalibrate(model, (samples,))
    assert len(surveyed(model, (samples * scale + shift,)).notes) == warned


def test_samples_that_say_nothing_are_refused() -> None:
    model = nn.Linear(3, 2)
    for samples in (torch.ones(8, 3), torch.randn(1, 3).expand(8, 3), torch.tensor([[1.0, 2, float("nan")]] * 2)):
        with pytest.raises(UsageError):
            surveyed(model, (samples,))


def test_samples_that_the_model_cannot_take_are_refused_with_their_shape() -> None:
    with pytest.raises(UsageError, match=r"\(8, 5\)"):
        surveyed(nn.Linear(3, 2), (torch.randn(8, 5),))


def test_the_layer_whose_output_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.fill_(float("inf"))
    with pytest.raises(DwindleError) as failed:
        surveyed(model, (torch.randn(8, 3),))
    assert failed.value.name == "1"


class Same(nn.Conv2d):
    """Pads as TensorFlow does, by a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_that_computes_something_else_than_its_class_is_left() -> None:
    model = nn.Sequential(Same(1, 2, 3, stride=2), nn.Flatten(), Scaled(32, 4), nn.Linear(4, 2))
    found = surveyed(model, (torch.randn(6, 1, 8, 8),))
    assert tuple(found.layers) == ("0", "3")
    assert "Scaled" in found.left["2.weight"]


class Branched(nn.Module):
    """Holds a large map until a small one is made of it, and a shortcut around its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 4, 4)
        self.last = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.wide(x))
        found: Tensor = x + self.last(x)
        return found


def test_what_a_pass_holds_on_to_is_found_from_each_layer_on() -> None:
    found = surveyed(Branched(), (torch.randn(6, 1, 8, 8),))
    assert found.held == {
        "wide": 4 * (8 * 64 + 4),  # with the output of narrow, at whose end both are there
        "narrow": 4 * (8 * 64 + 4),
        "last": 4 * (4 + 4),
    }


def test_layers_that_are_called_by_keyword_are_checked_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.norm(input=self.first(input=images))
            return found

    found = surveyed(Named(), (torch.randn(6, 1, 8, 8),))
    assert found.before_norm == {"first"}
    assert set(found.layers) == {"first"}
