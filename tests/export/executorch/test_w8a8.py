from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.export.parity import Compared, compare
from dwindle.export.quality import quality, sentence, sqnr
from dwindle.export.quantize import SCALES, store
from dwindle.export.w8a8 import quantize
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
REAL = (torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    target: ExecuTorch
    net: Path
    compared: Compared
    printed: str


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("int8")
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped, target = deployable(network, example), ExecuTorch("w8a8").calibrated(REAL)
    with captured_output(folder / "printed"):
        assert target.write(shipped, example, folder / "net.pte", pack=True) == "dense int8"
        compared = compare(target, folder / "net.pte", network, shipped, REAL)
    return Written(network, shipped, target, folder / "net.pte", compared, (folder / "printed").read_text())


def test_the_file_is_the_calibrated_network(written: Written) -> None:
    parity = written.compared.parity
    assert written.printed == ""
    assert written.net.stat().st_size < 110_000 < 4 * written.net.stat().st_size
    assert parity.weights_equal == 20
    assert parity.samples == 32
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative < parity.tolerance < 0.1


@pytest.mark.slow
def test_what_int8_costs_is_told_of_the_file_itself(written: Written) -> None:
    found = quality(written.shipped, "int8", written.compared)
    assert found is not None
    (ran,) = ExecuTorch().run(written.net, REAL)
    assert found.sqnr == pytest.approx(sqnr(written.shipped(*REAL).numpy(), ran), abs=1e-3)
    assert found.sqnr is not None
    assert 20 < found.sqnr < 60
    assert (found.top1_agreement or 0) > 0.9
    assert found.tensors.keys() == dict(written.shipped.named_parameters()).keys()
    assert sentence(found, "int8").startswith(f"int8 against fp32: SQNR of the outputs {found.sqnr:.1f} dB")


def test_pruned_weights_stay_zero_in_the_file(written: Written) -> None:
    held = written.target.decode(written.net, written.shipped)
    for name, tensor in written.shipped.named_parameters():
        if tensor.dim() > 1:
            assert not held[name][tensor.numpy() == 0].any()
            assert np.count_nonzero(held[name]) > 0.9 * np.count_nonzero(tensor.numpy())


def test_one_code_that_differs_is_found(written: Written, tmp_path: Path) -> None:
    content = bytearray(written.net.read_bytes())
    name = "stage3.0.conv2.weight"
    scale = store(name, written.shipped.get_parameter(name).numpy(), "int8").scale
    codes = np.rint(written.compared.rounded.get_parameter(name).numpy() / SCALES.astype(np.float32)[scale])
    codes = codes.astype(np.int8).transpose(0, 2, 3, 1)  # XNNPACK has the channels last
    content[content.index(codes.tobytes()) + int(np.flatnonzero(codes)[5])] ^= 1
    (tmp_path / "net.pte").write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        compare(written.target, tmp_path / "net.pte", written.network, written.shipped, REAL)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "stage3.0.conv2.weight")


def test_another_calibration_is_another_network(written: Written) -> None:
    small = tuple(tensor / 20 for tensor in REAL)
    with pytest.raises(ParityFailed) as failed:
        compare(written.target.calibrated(small), written.net, written.network, written.shipped, REAL)
    assert failed.value.code in ("outputs-differ", "weights-differ")


@pytest.mark.slow
def test_a_network_that_rounding_drowns_is_refused(example: Inputs, tmp_path: Path) -> None:
    # Ranges from samples of 1e-3 let hardly anything of real ones through.
    target = ExecuTorch("w8a8").calibrated(tuple(tensor / 1000 for tensor in REAL))
    layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval().requires_grad_(False)
    target.write(layer, example, tmp_path / "net.pte", pack=True)
    with pytest.raises(ParityFailed) as failed:
        compare(target, tmp_path / "net.pte", layer, layer, REAL)
    assert (failed.value.code, failed.value.path) == ("drowned-by-rounding", Path("net.pte"))


def test_small_rows_keep_their_steps() -> None:
    layer = nn.Linear(64, 2, bias=False).requires_grad_(False)
    torch.manual_seed(0)
    layer.weight[:] = torch.tensor([[1.0], [0.005]]) * torch.rand(2, 64)
    held = quantize(layer, (torch.randn(4, 64),)).weights_only.weight
    for row, exact in zip(held.numpy(), layer.weight.numpy(), strict=True):
        ratio = sqnr(exact, row)
        assert ratio is not None
        assert ratio > 40


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        ((), "no-samples"),
        ((torch.zeros(0, 1, 8, 8),), "no-samples"),
        ((torch.full((4, 1, 8, 8), 0.5),), "constant-samples"),
        ((torch.full((4, 1, 8, 8), torch.nan),), "not-finite"),
    ],
)
def test_samples_that_no_range_follows_from_are_refused(samples: Inputs, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        ExecuTorch("w8a8").calibrated(samples)
    assert (refused.value.code, refused.value.name) == (code, "inputs")


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 24])
def test_the_packer_says_what_write_wrote(width: int, masked: Changed, tmp_path: Path) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 10)
        )

    real, target = (REAL[0][:4],), ExecuTorch("w8a8")
    packed_bytes = target.packer(network(0), (REAL[0][:1],))
    pruned = masked(network(1), 0.1)
    target.calibrated(real).write(deployable(pruned.eval(), real), (REAL[0][:1],), tmp_path / "net.pte", pack=True)
    assert packed_bytes(pruned) == (tmp_path / "net.pte").stat().st_size


class Through(nn.Module):
    """A convolution, then what is tried, as its values pass through a network."""

    def __init__(self, tried: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.tried, self.after = nn.Conv2d(1, 4, 3, padding=1), tried, nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.tried(self.before(x)))


def proven(network: nn.Module, folder: Path) -> Compared:
    """A file of the network in int8, proven equal."""
    example, target = (REAL[0][:1],), ExecuTorch("w8a8").calibrated(REAL)
    network = network.eval().requires_grad_(False)
    shipped = deployable(network, example)
    target.write(shipped, example, folder / "net.pte", pack=True)
    return compare(target, folder / "net.pte", network, shipped, REAL)


@pytest.mark.slow
def test_a_transposed_convolution_is_rounded_by_channel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    transposed = nn.ConvTranspose2d(4, 4, 2, stride=2)
    network = Through(transposed)
    with torch.no_grad():
        transposed.weight[:, 0] /= 100  # one scale for all would leave little of it
    compared = proven(network, tmp_path)
    ratio = sqnr(transposed.weight[:, 0].numpy(), compared.rounded.get_parameter("tried.weight")[:, 0].numpy())
    assert ratio is not None
    assert ratio > 30
    assert compared.parity.weights_equal == 6


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "depthwise": nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "grouped": nn.Conv2d(4, 4, 3, groups=2),
    "dilated": nn.Conv2d(4, 4, 3, dilation=2),
    "grouped transposed": nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
    "batch norm": nn.BatchNorm2d(4),
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": nn.LayerNorm(8),
    "linear": nn.Linear(8, 8),
    "relu6": nn.ReLU6(),
    "leaky relu": nn.LeakyReLU(),
    "prelu": nn.PReLU(4),
    "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "tanh gelu": nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(1),
    "max pool": nn.MaxPool2d(2),
    "average pool": nn.AvgPool2d(2),
    "adaptive pool": nn.AdaptiveAvgPool2d(1),
    "upsample": nn.Upsample(scale_factor=2.0, mode="bilinear"),
    "shuffle": nn.ChannelShuffle(2),
    "residual": lambda x: x + x.relu(),
    "squeeze": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "concatenation": lambda x: torch.cat([x[:, :2], x[:, 2:].relu()], 1),
    "padding": lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_in_int8(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tried = OPERATORS[name]
    compared = proven(Through(copy.deepcopy(tried) if isinstance(tried, nn.Module) else tried), tmp_path)
    assert compared.parity.relative is not None
    found = sqnr(compared.exact[0], compared.outputs[0])
    assert found is None or found > 15
