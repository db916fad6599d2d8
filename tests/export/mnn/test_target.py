from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, RuntimeUnavailable
from dwindle.export import architecture, parity, targets
from dwindle.export.fold import deployable, tensors
from dwindle.export.mnn import file
from dwindle.export.mnn import target as mnn
from dwindle.export.mnn.target import MNN
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]

needs_extra = pytest.mark.needs("mnn")


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path
    packed_bytes: Callable[[nn.Module], int]
    outputs: np.ndarray
    printed: str


class Everything(nn.Module):
    """Layers whose weights MNN keeps as they are, turns, or computes others from, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 32, 3, bias=False), nn.Conv2d(32, 32, 3, groups=4)
        self.deep, self.up = nn.Conv2d(32, 32, 3, groups=32), nn.ConvTranspose2d(32, 16, 2, 2)
        self.norm, self.slope = nn.LayerNorm(16), nn.PReLU(16)
        self.linear, self.scale = nn.Linear(16, 12), nn.Parameter(torch.rand(12))
        self.product = nn.Parameter(torch.randn(12, 6))

    def forward(self, x: Tensor, add: Tensor) -> Tensor:
        y = self.slope(self.up(self.deep(self.grouped(self.first(x).relu()))))
        y = self.linear(self.norm(y.flatten(2).mT)) * self.scale
        return (y @ self.product).mean(1) + add


def blocks_pruned(network: nn.Module, density: float, block: int) -> nn.Module:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and len(module.weight) % block == 0:
                keep = torch.rand(len(module.weight) // block, *module.weight.shape[1:]) < density
                module.weight *= keep.repeat_interleave(block, 0)
    return network


@pytest.fixture(scope="module", autouse=True)
def converted_once() -> Iterator[None]:
    """Nearly all of these files have one graph."""
    with architecture.one_model():
        yield


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    samples: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("mnn")
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, example)
    with captured_output(folder / "printed"):
        words = MNN().write(shipped, example, folder / "net.mnn", pack=True)
        packed_bytes = MNN().packer(trained(resnet8(in_channels=1), seed=5), example)
        (outputs,) = MNN().run(folder / "net.mnn", samples)
    assert words == "sparse fp32 survivors"
    return Written(network, shipped, folder / "net.mnn", packed_bytes, outputs, (folder / "printed").read_text())


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnn, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable) as unavailable:
        targets.load("mnn")
    assert (unavailable.value.code, unavailable.value.name) == ("not-installed", "mnn")


@needs_extra
def test_the_file_is_the_network(written: Written, samples: Inputs) -> None:
    found = parity.check(MNN(), written.net, written.network, written.shipped, samples)
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
    assert written.packed_bytes(sparser) < size < dense / 3


@needs_extra
def test_another_weight_is_found(written: Written, samples: Inputs) -> None:
    other = copy.deepcopy(written.shipped)
    weight = other.get_submodule("stage2")[0].conv1.weight
    with torch.no_grad():
        weight.view(-1)[weight.view(-1).nonzero()[5]] *= 1.001
    with pytest.raises(ParityFailed) as failed:
        parity.check(MNN(), written.net, written.network, other, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "stage2.0.conv1.weight")


@needs_extra
def test_a_truncated_file_is_refused(written: Written, samples: Inputs, tmp_path: Path) -> None:
    (tmp_path / "net.mnn").write_bytes(written.net.read_bytes()[:20_000])
    with pytest.raises(ParityFailed):
        parity.check(MNN(), tmp_path / "net.mnn", written.network, written.shipped, samples)


@needs_extra
@pytest.mark.parametrize(("precision", "share"), [("fp16", 1.01), ("int8", 0.5)])
def test_fewer_bits_are_proven_too(
    precision: str, share: float, written: Written, example: Inputs, samples: Inputs, tmp_path: Path
) -> None:
    """Sparse layers keep fp32 survivors, in fp16 too: MNN computes no others sparsely."""
    path = tmp_path / "net.mnn"
    words = MNN(precision).write(written.shipped, example, path, pack=True)
    found = parity.check(MNN(precision), path, written.network, written.shipped, samples)
    assert found.weights_equal is not None
    assert found.weights_equal > 0
    assert path.stat().st_size < share * written.net.stat().st_size
    assert words == {"fp16": "sparse fp32 survivors", "int8": "dense int8, zeros as distances"}[precision]
    assert bool(file.sparse_blocks(file.parse(path.read_bytes()))) == (precision == "fp16")


@needs_extra
@pytest.mark.parametrize("block", [2, 4, 8, 16])
def test_each_layer_gets_its_own_block(
    block: int, trained: Changed, example: Inputs, samples: Inputs, tmp_path: Path
) -> None:
    network = blocks_pruned(trained(resnet8(in_channels=1)), 0.1, block).eval()
    path, shipped = tmp_path / "net.mnn", deployable(network, example)
    words = MNN().write(shipped, example, path, pack=True)
    found = file.sparse_blocks(file.parse(path.read_bytes()))
    assert words == f"sparse fp32 survivors in blocks of {max(found)} output channels"
    assert found.count(block) >= len(found) - 2  # by chance, larger ones or smaller ones may fit a small layer
    parity.check(MNN(), path, network, shipped, samples)


@needs_extra
def test_unpacked_nothing_is_sparse(written: Written, example: Inputs, samples: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "net.mnn"
    assert MNN().write(written.shipped, example, path, pack=False) == "dense fp32"
    assert file.sparse_blocks(file.parse(path.read_bytes())) == []
    parity.check(MNN(), path, written.network, written.shipped, samples)


@needs_extra
def test_all_kinds_of_layers_and_inputs_in_their_order(trained: Changed, masked: Changed, tmp_path: Path) -> None:
    """`add` comes before `x` in the alphabet, by which MNN lists them."""
    torch.manual_seed(0)
    network = masked(trained(Everything()), 0.15).eval()
    example, path = (torch.randn(1, 3, 12, 12), torch.randn(1, 6)), tmp_path / "net.mnn"
    shipped = deployable(network, example)
    samples = (torch.randn(5, 3, 12, 12), torch.randn(5, 6))
    for precision in MNN.precisions:
        MNN(precision).write(shipped, example, path, pack=True)
        found = parity.check(MNN(precision), path, network, shipped, samples)
        assert found.weights_equal == 14
        assert MNN(precision).packer(trained(Everything(), seed=3), example)(network) == path.stat().st_size


@needs_extra
def test_winograds_rounding_is_explained(trained: Changed, tmp_path: Path) -> None:
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())]
    network = trained(nn.Sequential(*layers)).eval()
    example = (torch.randn(1, 64, 32, 32, generator=torch.Generator().manual_seed(0)),)
    path, shipped = tmp_path / "net.mnn", deployable(network, example)
    MNN().write(shipped, example, path, pack=True)
    found = parity.check(MNN(), path, network, shipped, example)
    assert found.relative is not None
    assert found.relative < found.tolerance == 1e-3


@needs_extra
def test_the_same_network_makes_the_same_file(written: Written, example: Inputs, tmp_path: Path) -> None:
    with architecture.one_model():  # converted anew
        MNN().write(written.shipped, example, tmp_path / "again.mnn", pack=True)
    assert (tmp_path / "again.mnn").read_bytes() == written.net.read_bytes()
