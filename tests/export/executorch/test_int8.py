"""int8 weights in a .pte, in ExecuTorch's own runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.errors import ParityFailed
from dwindle.export import targets
from dwindle.export.answers import outputs_of
from dwindle.export.executorch.int8_graph import by_image
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.parity import check
from dwindle.export.quantize import int8_along, quantized, stored
from dwindle.export.rounding import Calibrated
from dwindle.export.shipping import as_file
from dwindle.export.target import Target
from dwindle.manifest import Parity
from tests.networks import Attending

IDS = torch.randint(0, 100, (8, 7), generator=torch.Generator().manual_seed(0))
TOKENS, WIDTH = 100, 32
CODED = ("table.weight", "within.weight", "scores.weight")


class Text(nn.Module):
    """Token ids to scores; the last layer is a table of embeddings too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.positions = nn.Parameter(torch.rand(1, 7, WIDTH))
        self.within = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.scores = nn.Linear(WIDTH, TOKENS, bias=False)
        self.others = nn.Embedding(TOKENS, WIDTH)
        self.others.weight = self.scores.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.table(tokens) + self.others(tokens) + self.positions
        scores: Tensor = self.scores(self.norm(found + self.within(found).relu()))
        return scores


class Written(NamedTuple):
    network: nn.Module
    target: Target
    path: Path
    parity: Parity


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Written:
    torch.manual_seed(0)
    network = deployable(Text().eval(), (IDS[:1],))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[torch.rand_like(parameter) < 0.3] = 0
    target, path = targets.load("executorch", "int8"), tmp_path_factory.mktemp("int8") / "net.pte"
    assert target.write(network, (IDS[:1],), path, pack=True) == "dense int8"
    return Written(network, target, path, check(target, path, network, network, (IDS,)))


@pytest.mark.slow
def test_a_text_network_s_file_is_its_rounding(text: Written) -> None:
    target, network, parity = text.target, text.network, text.parity
    assert (target.precision, target.calibrates, target.rounds_activations) == ("int8", False, True)
    assert parity.samples == len(IDS)
    assert parity.tolerance is not None
    assert parity.relative is not None
    assert parity.relative < parity.tolerance / 10 < 0.02
    held, nearest = target.decode(text.path, network), stored(network, "int8")
    assert {"table.weight", "within.weight"} < held.keys() & nearest.keys()
    assert held.keys() & {"scores.weight", "others.weight"}  # one tensor, by either name
    for name, values in held.items():
        if values.ndim > 1:
            np.testing.assert_array_equal(values, nearest[name].decoded())
            assert not values[network.get_parameter(name) == 0].any()
    assert target.holding(network, (IDS[:1],), (IDS,)).fp32 == ("positions",)


@pytest.mark.slow
def test_the_size_is_known_before_it_is_written(text: Written) -> None:
    size = text.path.stat().st_size
    assert text.target.packer(text.network, (IDS[:1],))(text.network) == size
    coded = sum(text.network.get_parameter(name).numel() for name in CODED)
    assert coded < size < 4 * coded


@pytest.mark.slow
def test_one_code_of_a_table_that_differs_is_found(text: Written, tmp_path: Path) -> None:
    codes = stored(text.network, "int8")["table.weight"].values
    content, path = bytearray(text.path.read_bytes()), tmp_path / "net.pte"
    content[content.index(codes.tobytes()) + int(np.flatnonzero(codes)[5])] ^= 1
    path.write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        check(text.target, path, text.network, text.network, (IDS,))
    assert (failed.value.code, failed.value.name) == ("weights-differ", "table.weight")


@pytest.mark.slow
def test_token_ids_and_a_mask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, mask = Attending().eval().requires_grad_(False), torch.arange(8)[None] < torch.tensor([[8], [5], [3]])
    real, target, path = (torch.randint(0, 20, (3, 8)), mask.long()), ExecuTorch("int8"), tmp_path / "net.pte"
    one = tuple(tensor[:1] for tensor in real)
    shipped = deployable(network, one)
    target.write(shipped, one, path, pack=True)
    assert check(target, path, network, shipped, real).weights_equal == 4
    held = target.decode(path, shipped)
    np.testing.assert_array_equal(held["places.weight"], stored(shipped, "int8")["places.weight"].decoded())


class Multiplied(nn.Module):
    """Two linear layers as GPT-2 has them, weights with their inputs first, and one that reads a weight both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(24, 24))
        self.bias = nn.Parameter(torch.randn(24))

    def forward(self, given: Tensor) -> Tensor:
        found = torch.addmm(self.bias, torch.addmm(self.bias, given, self.first).relu(), self.second)
        scores: Tensor = found + functional.linear(found, self.second)
        return scores


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_with_their_inputs_first(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, target, given = Multiplied().eval().requires_grad_(False), ExecuTorch(precision), torch.randn(4, 16)
    target.write(network, (given[:1],), tmp_path / "net.pte", pack=True)
    check(target, tmp_path / "net.pte", network, network, (given,))
    held = target.decode(tmp_path / "net.pte", network)["first"]
    assert held.shape == (16, 24)
    if precision == "int8":
        np.testing.assert_array_equal(held, int8_along(network.first.numpy(), 1).decoded())
        assert target.holding(network, (given[:1],), (given,)).fp32 == ("second",)
    else:
        np.testing.assert_array_equal(held, network.first.numpy())


class Image(nn.Module):
    """Convolutions of each form that XNNPACK rounds rows for, and two of one channel, for which it has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Conv2d(1, 3, 3)
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pixel = nn.Conv2d(16, 16, 1)
        self.strided = nn.Conv2d(16, 16, 1, stride=2, groups=2)
        self.row = nn.Conv1d(16, 8, 3, padding="same", dilation=2)
        self.point = nn.Conv1d(8, 8, 1, padding="same")
        self.last = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        found = self.depthwise(self.norm(self.first(self.grey(image))).relu()).relu()
        found = self.strided(self.pixel(found).relu()).flatten(2)
        scores: Tensor = self.last(self.point(self.row(found)).mean(2))
        return scores


@pytest.mark.slow
def test_convolutions_round_images_or_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 1, 10, 10) * torch.linspace(0.1, 3, 10)
    network = Image().eval().requires_grad_(False)
    network.norm.running_var.uniform_(0.5, 2)
    shipped, target, path = deployable(network, (images[:1],)), ExecuTorch("int8"), tmp_path / "net.pte"
    target.write(shipped, (images[:1],), path, pack=True)
    parity = check(target, path, network, shipped, (images,))
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative < parity.tolerance / 10 < 0.01
    assert parity.weights_equal == 16
    assert target.holding(shipped, (images[:1],), (images,)).fp32 == ("grey", "depthwise")
    plain = outputs_of(target.as_stored(shipped, activations=False), (images,))
    rounded = outputs_of(target.as_stored(shipped, activations=True), (images,))
    assert 1e-3 < np.abs(plain[0] - rounded[0]).max() / np.abs(plain[0]).max() < 0.1


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups", "image"),
    [
        ((1, 1), [1, 1], [0, 0], 1, False),
        ((1,), 1, "same", 1, False),
        ((1, 1), [2, 2], [0, 0], 1, True),
        ((1, 1), [1, 1], [1, 1], 1, True),
        ((1, 1), [1, 1], [0, 0], 2, True),
        ((1, 3), [1, 1], "same", 1, True),
    ],
)
def test_pointwise_convolutions_are_rounded_by_pixel(
    kernel: tuple[int, ...], stride: Any, padding: Any, groups: int, *, image: bool
) -> None:
    """Held by the runtime itself in the test above."""
    assert by_image(kernel, stride, padding, groups) == image


@pytest.mark.slow
def test_codes_may_be_chosen_by_samples(text: Written, tmp_path: Path) -> None:
    target, path, network = ExecuTorch("int8").rounded_by(Calibrated((IDS,))), tmp_path / "net.pte", text.network
    target.write(network, (IDS[:1],), path, pack=True)
    assert check(target, path, network, network, (IDS,)).weights_equal == text.parity.weights_equal
    chosen, nearest = target.as_stored(network, activations=False), quantized(network, stored(network, "int8"))
    moved = [name for name in CODED if not torch.equal(chosen.get_parameter(name), nearest.get_parameter(name))]
    assert moved
    assert all(not chosen.get_parameter(name)[network.get_parameter(name) == 0].any() for name in moved)


@pytest.mark.slow
def test_it_is_judged_by_its_file(text: Written) -> None:
    (expected,) = text.target.run(text.path, (IDS,))
    found = as_file(ExecuTorch("int8"), text.network, (IDS[:1],))(IDS)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert 0 < (found - text.network(IDS)).abs().max() < 0.1 * found.abs().max()


@pytest.mark.slow
def test_short_rows_stay_float_and_are_named(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)).eval().requires_grad_(False)
    target, given, said = ExecuTorch("int8"), torch.randn(4, 4), list[str]()
    networks = dict.fromkeys(("net", "dense"), (network, network))
    manifest = export_networks(networks, (given[:1],), (given,), tmp_path / "out", target, said.append)
    assert (manifest.precision, manifest.fp32, manifest.calibration_samples) == ("int8", ("0",), None)
    assert manifest.parity.weights_equal == 4
    assert [line for line in said if line.startswith("executorch: 0 compute in float: they have no int8 form")]
    held = target.decode(tmp_path / "out" / "net.pte", network)
    np.testing.assert_array_equal(held["0.weight"], network[0].weight.numpy())
