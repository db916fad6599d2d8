"""Scores against their definitions, worked out the slow way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.compress.scores import lamp, layerwise, load, magnitude
from dwindle.errors import UsageError


@given(st.lists(st.floats(-3, 3, allow_subnormal=False, width=16), min_size=1, max_size=12))
def test_lamp_is_its_definition(values: list[float]) -> None:
    weight = torch.tensor([values])
    scores = lamp({"w": weight})["w"][0]
    for i, value in enumerate(values):
        # Lee et al. 2021, eq. 4: the denominator sums the weights that come no earlier in ascending order.
        rest = sum(v * v for j, v in enumerate(values) if abs(v) > abs(value) or (abs(v) == abs(value) and j <= i))
        assert scores[i].item() == pytest.approx(value * value / rest if rest else 0.0, abs=1e-6)


def test_lamp_keeps_the_last_weight_of_each_layer() -> None:
    weights = {"small": torch.tensor([[1e-3, 2e-3]]), "large": torch.tensor([[5.0, 7.0]])}
    scores = lamp(weights)
    assert scores["small"].max() == scores["large"].max() == 1


def test_layerwise_takes_the_same_share_of_each() -> None:
    weights = {"small": torch.rand(4, 5) * 1e-3, "large": torch.rand(10, 8)}
    scores = layerwise(weights)
    for score in scores.values():
        assert (score < 0.5).sum() * 2 == score.numel()


def test_magnitude_is_absolute() -> None:
    assert magnitude({"w": torch.tensor([[-2.0, 1.0]])})["w"].tolist() == [[2.0, 1.0]]


def test_an_unknown_score_names_the_nearest() -> None:
    weights = {"w": torch.tensor([[1.0, -2.0]])}
    assert torch.equal(load("lamp")(weights)["w"], lamp(weights)["w"])
    with pytest.raises(UsageError, match="did you mean 'magnitude'"):
        load("magnitud")


def test_a_score_of_a_package_may_be_plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are parameters, whose absolute values have a gradient wherever that isn't turned off."""
    monkeypatch.setattr("dwindle.registry.resolve", lambda *name: lambda weights: {"w": weights["w"].abs() * 2})
    (score,) = load("doubled")({"w": torch.nn.Parameter(torch.ones(2, 2))}).values()
    assert not score.requires_grad
