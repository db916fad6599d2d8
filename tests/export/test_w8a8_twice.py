"""Layers that a forward pass calls more than once, with activations in int8, in the real runtimes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.export.fold import deployable
from dwindle.export.parity import check
from dwindle.export.rounding import Calibrated
from dwindle.export.targets import load
from dwindle.export.w8a8 import quantize

SAMPLES = (torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)


class Convolution(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x + 8 * self.twice(self.twice(x).relu())
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Siamese(nn.Module):
    """One layer for two images of other ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.twice(x).relu(), self.twice(x.flip(2) * 3).relu()
        logits: Tensor = self.head((one - other).mean((2, 3)))
        return logits


class Linear(nn.Module):
    """Called three times: of sequences, or of their means."""

    def __init__(self, *, sequences: bool) -> None:
        super().__init__()
        self.first, self.twice, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.sequences = sequences

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x[:, 0] if self.sequences else x[:, 0].mean(1)).relu()
        x = self.twice(self.twice(x).relu() + x) + 4 * self.twice(x.flip(-1))
        logits: Tensor = self.head(x.mean(1) if self.sequences else x)
        return logits


class OneValue(nn.Module):
    """Called twice on the same value, of which one result is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.twice(x).relu_() + self.twice(x).sigmoid()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class FloatBetween(nn.Module):
    """With a sine, which no target computes in int8, between two calls, and a number that one of them reads times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.sin(self.twice(self.first(x).relu() * 3)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolution": Convolution,
    "without a bias": lambda: Convolution(bias=False),
    "siamese": Siamese,
    "linear": lambda: Linear(sequences=False),
    "of sequences": lambda: Linear(sequences=True),
}
APART: dict[str, Callable[[], nn.Module]] = {"one value": OneValue, "float between": FloatBetween}


def made(name: str, kept: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """A network of which that share of `twice` survives, and what is written of it."""
    torch.manual_seed(0)
    network = (NETWORKS | APART)[name]().eval().requires_grad_(False)
    weight = network.get_parameter("twice.weight")
    weight.mul_(weight.abs() >= weight.abs().quantile(1 - kept))
    return network, deployable(network, (SAMPLES[0][:1],))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "target"),
    [
        *product(NETWORKS, ("onnx", "executorch")),
        pytest.param("linear", "litert", marks=pytest.mark.needs("litert")),
    ],
)
def test_files_hold_what_was_calibrated(name: str, target: str, tmp_path: Path) -> None:
    network, shipped = made(name)
    int8 = load(target, "w8a8").calibrated(SAMPLES)
    path = tmp_path / f"net{int8.suffix}"
    int8.write(shipped, (SAMPLES[0][:1],), path, pack=True)
    parity = check(int8, path, network, shipped, SAMPLES)
    assert parity.weights_equal >= len([one for one in shipped.parameters() if one.dim() > 1])
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative <= parity.tolerance < 0.1


TARGETS = (
    "onnx",
    pytest.param("executorch", marks=pytest.mark.slow),
    pytest.param("coreml", marks=pytest.mark.slow),
    pytest.param("litert", marks=[pytest.mark.slow, pytest.mark.needs("litert")]),
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "kept"), [*((name, ()) for name in APART), ("convolution", ("twice",))])
def test_calls_of_one_value_or_of_which_some_are_float_are_what_was_calibrated(
    name: str, kept: tuple[str, ...], target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, shipped = made(name)
    int8 = load(target, "w8a8").calibrated(SAMPLES).keeping(kept)
    path = tmp_path / f"net{int8.suffix}"
    named = int8.holding(shipped, (SAMPLES[0][:1],), SAMPLES)
    assert ("sin" in named.fp32) == (name == "float between")
    assert ("twice" in named.fp32) == bool(kept)
    named.write(shipped, (SAMPLES[0][:1],), path, pack=True)
    assert not capsys.readouterr().out  # which is for documents
    parity = check(named, path, network, shipped, SAMPLES)
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative <= parity.tolerance < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "convolution",
        "linear",
        "of sequences",
    ],
)
def test_files_are_packed_by_codes_that_samples_chose_and_as_large_as_was_counted(name: str, tmp_path: Path) -> None:
    network, shipped = made(name, 0.1)
    int8 = load("onnx", "w8a8").calibrated(SAMPLES).rounded_by(Calibrated(SAMPLES))
    path = tmp_path / "net.onnx"
    int8.write(shipped, (SAMPLES[0][:1],), path, pack=True)
    check(int8, path, network, shipped, SAMPLES)
    assert int8.packer(shipped, (SAMPLES[0][:1],))(shipped) == path.stat().st_size
    held = torch.from_numpy(int8.decode(path, shipped)["twice.weight"])
    assert not held[shipped.get_parameter("twice.weight") == 0].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_all_calls_of_a_layer_compute_in_int8_with_one_bias(name: str) -> None:
    _, shipped = made(name)
    found = quantize(shipped, SAMPLES)
    calls = [layer for layer in found.layers if layer.path == "twice"]
    assert len(calls) == (3 if isinstance(shipped, Linear) else 2)
    assert {layer.bias for layer in calls} == {None if name == "without a bias" else "twice.bias"}


class Times(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((self.first(x) * 3 + 0.5).relu().mean((2, 3)))
        return logits


@pytest.mark.slow
def test_numbers_that_a_network_computes_with_are_in_int8_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Times().eval().requires_grad_(False)
    shipped, onnx = deployable(network, (SAMPLES[0][:1],)), load("onnx", "w8a8").calibrated(SAMPLES)
    onnx.write(shipped, (SAMPLES[0][:1],), tmp_path / "net.onnx", pack=True)
    parity = check(onnx, tmp_path / "net.onnx", network, shipped, SAMPLES)
    assert parity.relative is not None
    assert parity.relative < 0.1
