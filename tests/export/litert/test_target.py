from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, RuntimeUnavailable
from dwindle.export import parity, targets
from dwindle.export.fold import deployable, tensors
from dwindle.export.litert import target as litert
from dwindle.export.litert.target import LiteRT
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]

needs_extra = pytest.mark.needs("litert")


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path
    packed_bytes: Callable[[nn.Module], int]
    outputs: np.ndarray
    printed: str


class Gate(nn.Module):
    """The converter adds the 3 of a hard sigmoid to the bias before it, and divides the weight after it by its 6."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 32, 1), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardsigmoid(self.second(self.first(x).relu()))
        return self.last(y).mean((2, 3))


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    samples: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("litert")
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, example)
    with captured_output(folder / "printed"):
        words = LiteRT().write(shipped, example, folder / "net.tflite", pack=True)
        packed_bytes = LiteRT().packer(trained(resnet8(in_channels=1), seed=5), example)
        (outputs,) = LiteRT().run(folder / "net.tflite", samples)
    assert words == "compressed sparse rows + fp32 survivors"
    return Written(network, shipped, folder / "net.tflite", packed_bytes, outputs, (folder / "printed").read_text())


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable) as unavailable:
        targets.load("litert")
    assert (unavailable.value.code, unavailable.value.name) == ("not-installed", "litert")


@needs_extra
def test_the_file_is_the_network(written: Written, samples: Inputs) -> None:
    found = parity.check(LiteRT(), written.net, written.network, written.shipped, samples)
    floats = [tensor for tensor in tensors(written.shipped).values() if tensor.is_floating_point()]
    assert found.weights_equal == len(floats)
    np.testing.assert_allclose(written.outputs, written.shipped(*samples).numpy(), rtol=1e-4, atol=1e-5)


@needs_extra
def test_nothing_is_printed(written: Written) -> None:
    assert written.printed == ""


@needs_extra
def test_the_packer_says_what_write_wrote(written: Written, trained: Changed, masked: Changed) -> None:
    size = written.packed_bytes(written.network)
    assert size == written.net.stat().st_size
    sparser = masked(trained(resnet8(in_channels=1)), 0.05)
    dense = written.packed_bytes(trained(resnet8(in_channels=1)))
    assert written.packed_bytes(sparser) < size < dense / 4


@needs_extra
def test_another_weight_is_found(written: Written, samples: Inputs) -> None:
    import copy

    other = copy.deepcopy(written.shipped)
    weight = other.get_submodule("stage2")[0].conv1.weight
    with torch.no_grad():
        weight.view(-1)[weight.view(-1).nonzero()[5]] *= 1.001
    with pytest.raises(ParityFailed) as failed:
        parity.check(LiteRT(), written.net, written.network, other, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "stage2.0.conv1.weight")


@needs_extra
def test_a_truncated_file_is_refused(written: Written, samples: Inputs, tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(written.net.read_bytes()[:20_000])
    with pytest.raises(ParityFailed):
        parity.check(LiteRT(), tmp_path / "net.tflite", written.network, written.shipped, samples)


@pytest.mark.slow
@needs_extra
def test_in_fp16_it_takes_about_half(written: Written, example: Inputs, samples: Inputs, tmp_path: Path) -> None:
    half, path = LiteRT("fp16"), tmp_path / "net.tflite"
    assert half.write(written.shipped, example, path, pack=True) == "compressed sparse rows + fp16 survivors"
    found = parity.check(half, path, written.network, written.shipped, samples)
    assert found.weights_equal is not None
    assert found.weights_equal > 0
    assert path.stat().st_size < 0.75 * written.net.stat().st_size


@pytest.mark.slow
@needs_extra
def test_what_the_converter_computes_from_weights_is_written_and_counted_too(
    trained: Changed, masked: Changed, tmp_path: Path
) -> None:
    network = masked(trained(Gate()), 0.1).eval()
    example, path = (torch.randn(1, 1, 8, 8),), tmp_path / "net.tflite"
    shipped = deployable(network, example)
    LiteRT().write(shipped, example, path, pack=True)
    parity.check(LiteRT(), path, network, shipped, example)
    assert {"first.weight", "second.weight"} <= LiteRT().decode(path, shipped).keys() < tensors(shipped).keys()
    assert LiteRT().packer(trained(Gate(), seed=3), example)(network) == path.stat().st_size


@pytest.mark.slow
@needs_extra
def test_a_linear_layer_before_a_prelu_is_in_the_file_once(trained: Changed, tmp_path: Path) -> None:
    network = trained(nn.Sequential(nn.Linear(64, 96), nn.PReLU(96), nn.Linear(96, 2))).eval()
    example, path = (torch.randn(1, 64),), tmp_path / "net.tflite"
    shipped = deployable(network, example)
    LiteRT().write(shipped, example, path, pack=True)
    found = parity.check(LiteRT(), path, network, shipped, (torch.randn(3, 64),))
    assert found.weights_equal == len(tensors(shipped))
    assert path.stat().st_size < 1.3 * sum(4 * tensor.numel() for tensor in tensors(shipped).values())


@pytest.mark.needs("litert", "arm64")
@pytest.mark.slow
def test_zeros_are_skipped_on_arm(trained: Changed, masked: Changed, tmp_path: Path) -> None:
    """Counted by emulation. Nothing of it would run sparse were its hard sigmoid and its mean left as converted."""
    from dwindle.bench.devices import emulator

    x = torch.randn(1, 3, 64, 64)
    counts = {}
    for density in (1, 0.1):
        network = masked(trained(Separable()), density).eval()
        path = tmp_path / f"{density}.tflite"
        LiteRT().write(deployable(network, (x,)), (x,), path, pack=True)
        counts[density] = emulator.count(path, "litert", [x.numpy()])
        np.testing.assert_allclose(counts[density].outputs[0], network(x).detach().numpy(), rtol=1e-3, atol=1e-4)
    assert counts[0.1].macs < 0.2 * counts[1].macs
    assert counts[0.1].instructions["all"] < 0.4 * counts[1].instructions["all"]


class Separable(nn.Module):
    """A stem as XNNPACK wants it, 1×1 convolutions, one under a squeeze and excitation, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.wide, self.narrow, self.gate = nn.Conv2d(16, 256, 1), nn.Conv2d(256, 64, 1), nn.Conv2d(64, 64, 1)
        self.last, self.classifier = nn.Conv2d(64, 256, 1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.wide(self.stem(x).relu()).relu())
        x = x * nn.functional.hardsigmoid(self.gate(nn.functional.adaptive_avg_pool2d(x, 1)))
        return self.classifier(self.last(x).relu().mean((2, 3)))
