"""Layers that stay float in a network in int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export import target_options, targets
from dwindle.export.fold import deployable
from dwindle.export.parity import compare
from dwindle.export.w8a8 import KEEP_AUTO, Form, quantize
from dwindle.export.w8a8_keep import judging, noise

SAMPLES = (torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)


class Uneven(nn.Module):
    """Six convolutions; `wide` reads a channel a thousand times as large as the one that it makes use of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.wide = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.rest = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(3)))
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight[0] *= 1000
            self.wide.weight[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rest(torch.relu(self.wide(torch.relu(self.first(x))))).mean((2, 3)))


@pytest.fixture(scope="module")
def shipped() -> nn.Module:
    return deployable(Uneven().eval(), (SAMPLES[0][:1],))


@pytest.mark.slow
def test_auto_keeps_what_loses_most_and_the_outputs_are_nearer_for_it(shipped: nn.Module) -> None:
    every, auto = quantize(shipped, SAMPLES), quantize(shipped, SAMPLES, Form(keep=KEEP_AUTO))
    assert not every.kept
    assert auto.kept == ("first", "wide")  # between which the large channel is
    assert {layer.path for layer in every.layers} - {layer.path for layer in auto.layers} == set(auto.kept)
    few = judging(SAMPLES)
    assert noise(shipped, auto.program, few) < noise(shipped, every.program, few) / 4


def test_auto_keeps_nothing_where_little_is_lost() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    assert quantize(network.requires_grad_(False), SAMPLES, Form(keep=KEEP_AUTO)).kept == ()


def test_modules_are_named_with_all_that_is_in_them(shipped: nn.Module) -> None:
    made = quantize(shipped, SAMPLES, Form(keep=("rest", "head")))
    assert made.kept == ("rest.0", "rest.1", "rest.2", "head")
    assert [layer.path for layer in made.layers] == ["first", "wide"]
    weights = dict(made.weights_only.named_parameters())
    assert torch.equal(weights["rest.0.weight"], shipped.get_parameter("rest.0.weight"))


def test_a_name_of_no_layer_is_refused_with_the_nearest(shipped: nn.Module) -> None:
    with pytest.raises(UsageError) as refused:
        quantize(shipped, SAMPLES, Form(keep=("wyde",)))
    assert (refused.value.option, refused.value.name) == ("keep_float", "wyde")
    assert "wide" in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "onnx",
        pytest.param("coreml", marks=pytest.mark.slow),
        pytest.param("executorch", marks=pytest.mark.slow),
        pytest.param("litert", marks=[pytest.mark.slow, pytest.mark.needs("litert")]),
    ],
)
def test_every_target_keeps_them(name: str, shipped: nn.Module, tmp_path: Path) -> None:
    example = (SAMPLES[0][:1],)
    plain = targets.load(name, "w8a8").calibrated(SAMPLES)
    target = plain.keeping(("first", "wide")).holding(shipped, example, SAMPLES)
    assert target.fp32 == ("first", "wide")
    path = tmp_path / f"net{target.suffix}"
    target.write(shipped, example, path, pack=True)
    found = compare(target, path, shipped, shipped, SAMPLES)
    assert found.parity.relative is not None
    (exact,), (ours,) = found.exact, found.outputs
    assert abs(exact - ours).max() < 0.1 * abs(exact).max()
    original = shipped.get_parameter("wide.weight").numpy()
    held = target.decode(path, shipped)["wide.weight"].astype("float32")
    assert abs(held - original).max() <= 2**-11 * abs(original).max()


def test_a_file_that_computes_in_float_has_no_layers_to_keep() -> None:
    with pytest.raises(UsageError) as refused:
        target_options.require_used([targets.load("onnx", "int8")], None, None, keep_float=("auto",))
    assert (refused.value.option, refused.value.code) == ("keep_float", "unused-option")
