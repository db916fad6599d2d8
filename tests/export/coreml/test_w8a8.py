"""Packages that compute in int8, run by dwindle's interpreter against the network of rounded activations."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export import targets
from dwindle.export.coreml.read import RECORD, WEIGHTS, main_block, read
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.parity import Compared, compare
from dwindle.files import raw_bytes
from dwindle.models.signature import flat, signature_of
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
REAL = (torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    target: CoreML
    path: Path
    compared: Compared


@pytest.fixture(scope="module")
def written(trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("w8a8") / "net.mlpackage"
    network = masked(trained(resnet8(in_channels=1)), 0.2).eval()
    shipped, target = deployable(network, example), CoreML("w8a8").calibrated(REAL)
    assert target.write(shipped, example, path, pack=True).startswith("bitmask + int8 survivors")
    return Written(network, shipped, target, path, compare(target, path, network, shipped, REAL))


@pytest.mark.slow
def test_the_file_is_the_network_of_rounded_weights_and_activations(written: Written) -> None:
    parity = written.compared.parity
    assert (parity.weights_equal, parity.samples) == (20, 24)
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative < parity.tolerance < 0.1


@pytest.mark.slow
def test_every_layer_reads_quantised_activations_and_sparse_int8_weights(written: Written) -> None:
    block = main_block(read(written.path)[0])
    made = {output.name: operation for operation in block.operations for output in operation.outputs}
    layers = [operation for operation in block.operations if operation.type in ("conv", "linear", "matmul")]
    assert len(layers) == 10
    sparse = 0
    for layer in layers:
        source = made[layer.inputs["x"].arguments[0].name]
        if source.type == "reshape":  # of the pooled image, to a row
            source = made[source.inputs["x"].arguments[0].name]
        assert source.type == "dequantize"
        weight = made[layer.inputs["weight"].arguments[0].name]
        if weight.type == "constexpr_sparse_to_dense":  # few weights take fewer bytes dense
            weight = made[weight.inputs["nonzero_data"].arguments[0].name]
            sparse += 1
        assert weight.type in ("constexpr_sparse_blockwise_shift_scale", "constexpr_blockwise_shift_scale")
    assert sparse > 6


def test_pruned_weights_are_zero_in_the_file(written: Written) -> None:
    held = written.target.decode(written.path, written.shipped)
    for name, tensor in written.shipped.named_parameters():
        if tensor.dim() > 1:
            assert not held[name][tensor.numpy() == 0].any()


@pytest.mark.slow
def test_the_packer_says_what_write_wrote(written: Written, masked: Changed, trained: Changed, example: Inputs) -> None:
    other = masked(trained(resnet8(in_channels=1), seed=5), 0.7, seed=5)
    assert CoreML("w8a8").packer(other, example)(written.network) == raw_bytes(written.path)


def test_a_flipped_code_is_found(written: Written, tmp_path: Path) -> None:
    package = tmp_path / "net.mlpackage"
    shutil.copytree(written.path, package)
    *_, mask_of_largest = sorted(_blobs(package), key=lambda blob: blob[1])
    content = bytearray((package / WEIGHTS).read_bytes())
    content[mask_of_largest[0]] ^= 2
    (package / WEIGHTS).write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        compare(written.target, package, written.network, written.shipped, REAL)
    assert failed.value.code == "weights-differ"


def _blobs(package: Path) -> Iterator[tuple[int, int]]:
    """Where the int8 survivors of each weight lie in the weight file, and how many bytes there are."""
    content = (package / WEIGHTS).read_bytes()
    for operation in main_block(read(package)[0]).operations:
        if operation.type == "constexpr_sparse_blockwise_shift_scale":
            at = operation.inputs["nonzero_data"].arguments[0].value.blobFileValue.offset
            _, _, size, start, _ = RECORD.unpack_from(content, at)
            yield start, size


@pytest.mark.slow
def test_ios_17_has_dense_codes_that_it_computes_with(written: Written, example: Inputs, tmp_path: Path) -> None:
    target, path = CoreML("w8a8", "iOS17").calibrated(REAL), tmp_path / "net.mlpackage"
    assert target.note
    assert target.write(written.shipped, example, path, pack=True) == "dense int8"
    kinds = Counter(operation.type for operation in main_block(read(path)[0]).operations)
    assert kinds["constexpr_affine_dequantize"] == 10
    held, sparse = (one.decode(file, written.shipped) for one, file in ((target, path), (written.target, written.path)))
    assert all(np.array_equal(held[name], sparse[name]) for name in sparse)


def test_ios_16_computes_nothing_in_int8() -> None:
    with pytest.raises(UsageError) as refused:
        targets.load("coreml", "w8a8", "iOS16")
    assert (refused.value.option, refused.value.code) == ("min_os", "system-too-old")
    newer = set(targets.possible("coreml")) - set(targets.possible("coreml", "iOS16"))
    assert newer == {"w8a8", "palette3", "palette2", "palette1"}


class Mixed(nn.Module):
    """Branches that are concatenated, hard-swish, squeeze and excitation, a transposed convolution, linear layers of
    images and of sequences, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1, bias=False)
        self.c, self.squeeze = nn.Conv2d(16, 8, 3, padding=1, groups=8), nn.Linear(8, 8)
        self.up, self.sequence, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Linear(4, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([nn.functional.relu6(self.a(x)), torch.relu(self.b(x))], 1)
        y = nn.functional.max_pool2d(nn.functional.hardswish(self.c(y)), 2)
        y = self.up(y * torch.sigmoid(self.squeeze(y.mean((2, 3))))[:, :, None, None])
        return self.head(nn.functional.avg_pool2d(y, 2).mean((2, 3))), self.sequence(y.flatten(2).transpose(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coreml", "executorch-coreml"])
def test_a_network_of_many_kinds_of_layers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 12, 12),)
    one = (real[0][:1],)
    network = Mixed().eval()
    network = flat(network, signature_of(network, one))
    shipped, target = deployable(network, one), targets.load(name, "w8a8").calibrated(real)
    path = tmp_path / f"net{target.suffix}"
    target.write(shipped, one, path, pack=True)
    parity = compare(target, path, network, shipped, real).parity
    assert parity.weights_equal == 13
    assert parity.relative is not None
    assert parity.relative < 0.1
