from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed
from dwindle.export.executorch.program import key_of, lower, lowered
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable, trace
from dwindle.export.parity import check
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path
    outputs: np.ndarray
    packed_bytes: Callable[[nn.Module], int]
    printed: str


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    samples: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("executorch")
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, example)
    with captured_output(folder / "printed"):
        assert ExecuTorch().write(shipped, example, folder / "net.pte", pack=True) == "dense fp32"
        packed_bytes = ExecuTorch().packer(trained(resnet8(in_channels=1), seed=5), example)
        (outputs,) = ExecuTorch().run(folder / "net.pte", samples)
    return Written(network, shipped, folder / "net.pte", outputs, packed_bytes, (folder / "printed").read_text())


def test_the_file_computes_what_the_network_does(written: Written, samples: Inputs) -> None:
    assert written.outputs.shape == (len(samples[0]), 10)
    np.testing.assert_allclose(written.outputs, written.shipped(*samples).numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_printed(written: Written) -> None:
    assert written.printed == ""


def test_the_packer_says_what_write_wrote_whatever_the_zeros(written: Written, masked: Changed) -> None:
    assert not ExecuTorch().packs_zeros
    assert written.packed_bytes(written.shipped) == written.net.stat().st_size
    assert written.packed_bytes(masked(resnet8(in_channels=1), 0.01)) == written.net.stat().st_size


def test_every_weight_is_read_back(written: Written, samples: Inputs) -> None:
    parity = check(ExecuTorch(), written.net, written.network, written.shipped, samples)
    assert parity.weights_equal == len(list(written.shipped.parameters())) == 20


def test_tensors_have_short_names_that_follow_from_their_bytes(written: Written) -> None:
    content = written.net.read_bytes()
    bias = written.shipped.stage2[0].conv2.bias.detach().numpy().tobytes()  # type: ignore[union-attr, operator, index]
    assert content.count(key_of(bias).encode()) == 2  # where the tensor is named, and where it is read
    assert not re.search(rb"[0-9a-f]{25}", content)


def test_one_weight_that_differs_is_found(written: Written, samples: Inputs, tmp_path: Path) -> None:
    weight = written.shipped.stage2[0].conv2.weight
    held = weight.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    content = bytearray(written.net.read_bytes())
    place = content.index(held) + 4 * int(weight.permute(0, 2, 3, 1).flatten().nonzero()[7])
    content[place] ^= 1  # the last bit of one fp32 weight
    (tmp_path / "net.pte").write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        check(ExecuTorch(), tmp_path / "net.pte", written.network, written.shipped, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "stage2.0.conv2.weight")
    assert "1 of 9216 weights" in str(failed.value)


@pytest.mark.parametrize("keep", [0, 5000, -1])
def test_a_truncated_file_is_found(written: Written, samples: Inputs, tmp_path: Path, keep: int) -> None:
    (tmp_path / "net.pte").write_bytes(written.net.read_bytes()[:keep])
    with pytest.raises(ParityFailed) as failed:
        check(ExecuTorch(), tmp_path / "net.pte", written.network, written.shipped, samples)
    assert failed.value.code in ("unreadable", "not-runnable")


class EveryLayer(nn.Module):
    """Every kind of layer that XNNPACK lays out in its own way, and twins that only their order tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8, padding=1, bias=False)
        self.grouped = nn.Conv2d(16, 8, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.grouped_up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.line = nn.Conv1d(6, 5, 3)
        self.late = nn.Linear(5, 5)
        self.early = nn.Linear(5, 5)
        self.unfolded = nn.Conv2d(5, 5, 1)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.plain(x).relu()))
        x = self.line((self.up(x) + self.grouped_up(x)).mean(-1))
        x = self.norm(self.unfolded(x.unsqueeze(-1))).mean((2, 3))
        return self.late(x + self.early(x)) + self.early(x)


@pytest.mark.slow
def test_weights_of_every_layout_are_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EveryLayer().eval().requires_grad_(False)
    network.norm.running_mean += 1
    ExecuTorch().write(network, (torch.randn(1, 3, 8, 8),), tmp_path / "net.pte", pack=True)
    held = ExecuTorch().decode(tmp_path / "net.pte", network)
    expected = {name: tensor for name, tensor in network.named_parameters() if name[:3] not in ("unf", "nor")}
    assert held.keys() == expected.keys()  # XNNPACK folds the batch norm itself, so that layer holds other values
    for name, tensor in expected.items():
        assert held[name].tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.slow
def test_a_file_that_was_filled_is_what_lowering_makes(written: Written, example: Inputs) -> None:
    program = lower(written.shipped, example)
    assert program.complete
    assert program.content != program.filled(written.shipped) == written.net.read_bytes()
    assert written.net.read_bytes() == lowered(trace(written.shipped, example), "ResNet")


@pytest.mark.slow
def test_constants_that_are_filled_up_with_zeros_are_filled_in() -> None:
    class Indexed(nn.Module):
        """A table that is looked up, as Swin's of relative positions, and a number."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.table = nn.Linear(4, 3), nn.Parameter(torch.randn(9, 3))
            self.register_buffer("places", torch.tensor([0, 4, 8]))

        def forward(self, x: Tensor) -> Tensor:
            found = self.table[self.places]
            return self.first(x) + torch.where(found > 0, found, torch.tensor(-100.0)).amax(0)

    torch.manual_seed(0)
    network, x = Indexed().eval().requires_grad_(False), (torch.randn(1, 4),)
    program = lower(network, x)
    assert program.complete
    assert program.filled(network) == lowered(trace(network, x), "Indexed")


@pytest.mark.slow
@pytest.mark.parametrize("network", [EveryLayer(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU())])
def test_a_program_whose_constants_are_not_all_known_says_so(network: nn.Module) -> None:
    program = lower(network.eval(), (torch.zeros(1, 3, 8, 8),))
    assert program.complete == (not isinstance(network, EveryLayer))  # XNNPACK folds its batch norm


class Block(nn.Module):
    """A block of a transformer as GPT-2 has it, up to its size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x)), approximate="tanh"))


@pytest.mark.slow
def test_variance_and_mean_in_one_call_are_written(tmp_path: Path) -> None:
    class Normal(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
            across, middle = torch.var_mean(x, 1, correction=0)
            return (x - mean) / variance + across[:, None], middle, torch.var_mean(x)[0].reshape(1)

    inputs = (torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)),)
    ExecuTorch().write(Normal().eval(), inputs, tmp_path / "net.pte", pack=True)
    for found, expected in zip(ExecuTorch().run(tmp_path / "net.pte", inputs), Normal()(*inputs), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_tanh_form_of_gelu_is_not_taken_for_the_exact_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, gelu = (torch.linspace(-8, 8, 1024).reshape(1, 1024),), nn.GELU("tanh").eval()
    ExecuTorch().write(gelu, inputs, tmp_path / "gelu.pte", pack=True)
    np.testing.assert_allclose(ExecuTorch().run(tmp_path / "gelu.pte", inputs)[0], gelu(*inputs).numpy(), atol=2e-6)
    inputs, blocks = (torch.randn(4, 8, 16),), nn.Sequential(Block(), Block(), Block()).eval().requires_grad_(False)
    ExecuTorch().write(blocks, (inputs[0][:1],), tmp_path / "net.pte", pack=True)
    parity = check(ExecuTorch(), tmp_path / "net.pte", blocks, blocks, inputs)
    assert parity.relative is not None
    assert parity.relative < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Linear(6, 4), nn.PReLU(4)), (6,)),
        ((nn.Conv1d(6, 4, 1), nn.PReLU(4), nn.Conv1d(4, 3, 1), nn.PReLU()), (6, 5)),
    ],
    ids=["vector", "sequence"],
)
def test_a_slope_for_each_channel_of_what_is_no_image(
    layers: tuple[nn.Module, ...], shape: tuple[int, ...], tmp_path: Path
) -> None:
    network, inputs = nn.Sequential(*layers).eval(), (torch.randn(1, *shape),)
    for layer in layers:
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.5, 0.9)
    shipped, path = deployable(network, inputs), tmp_path / "net.pte"
    ExecuTorch().write(shipped, inputs, path, pack=True)
    assert check(ExecuTorch(), path, network, shipped, (torch.randn(4, *shape),)).relative is not None
    assert ExecuTorch().packer(network, inputs)(network) == path.stat().st_size
