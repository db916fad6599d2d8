from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.masks import mask_applier, prunable
from dwindle.errors import UsageError
from dwindle.export.architecture import one_model
from dwindle.export.fold import deployable, tensors
from dwindle.export.onnx.target import Onnx
from dwindle.export.quantize import CODED, quantized, stored
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
Evaluate = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


DENSITIES = (0.05, 0.5, 1.0)
ENCODINGS = {0.05: "Golomb-Rice + fp32 survivors", 0.5: "bitmask + fp32 survivors", 1.0: "dense fp32"}


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    path: Path
    encoding: str


@pytest.fixture(scope="module")
def written(
    trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> dict[float, Written]:
    """A network at each density and its file."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}
    with one_model():
        for density in DENSITIES:
            network = masked(trained(resnet8(in_channels=1)), density)
            shipped, path = deployable(network, example), folder / f"{density}.onnx"
            made[density] = Written(network, shipped, path, Onnx().write(shipped, example, path, pack=True))
    return made


@pytest.mark.parametrize("density", DENSITIES)
def test_the_file_computes_what_the_network_does(
    written: dict[float, Written], samples: Inputs, by_reference: Evaluate, density: float
) -> None:
    _, shipped, path, encoding = written[density]
    assert encoding == ENCODINGS[density]

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (outputs,) = Onnx().run(path, samples)
    np.testing.assert_allclose(outputs, shipped(*samples).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_reference(model, samples[0][:1].numpy()), outputs[:1], rtol=1e-4, atol=1e-5)

    decoded, held = Onnx().decode(path, shipped), tensors(shipped)
    assert len(decoded) == 20
    for name, weights in decoded.items():
        assert weights.tobytes() == held[name].numpy().tobytes()


def test_the_packer_says_what_write_wrote(written: dict[float, Written], trained: Changed, example: Inputs) -> None:
    packed_bytes = Onnx().packer(trained(resnet8(in_channels=1), seed=5), example)
    for network, _, path, _ in written.values():
        assert packed_bytes(network) == path.stat().st_size
    smallest = trained(resnet8(in_channels=1))
    with torch.no_grad():
        for parameter in smallest.parameters():
            parameter.zero_()
    assert packed_bytes(smallest) < 13_500


@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("precision", ["fp16", *CODED])
def test_fewer_bits(
    written: dict[float, Written], samples: Inputs, example: Inputs, tmp_path: Path, precision: str
) -> None:
    network, shipped, fp32, _ = written[0.05]
    target, path = Onnx(precision), tmp_path / "net.onnx"
    assert target.write(shipped, example, path, pack=True) == f"Golomb-Rice + {precision} survivors"
    assert path.stat().st_size < {"fp16": 0.75, "int8": 0.6}.get(precision, 0.58) * fp32.stat().st_size
    assert target.packer(network, example)(network) == path.stat().st_size

    held = stored(shipped, precision)
    small = quantized(shipped, held)
    np.testing.assert_allclose(target.run(path, samples)[0], small(*samples).numpy(), rtol=1e-4, atol=1e-5)
    decoded = target.decode(path, shipped)
    assert len(decoded) == 20
    assert all(array.tobytes() == held[name].decoded().tobytes() for name, array in decoded.items())

    dense = tmp_path / "dense.onnx"
    assert target.write(shipped, example, dense, pack=False) == f"dense {precision}"
    np.testing.assert_array_equal(target.run(dense, samples)[0], target.run(path, samples)[0])


def test_a_pruned_network_unpacked_is_as_large_as_the_dense_one(
    written: dict[float, Written], example: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "dense.onnx"
    assert Onnx().write(written[0.05].shipped, example, path, pack=False) == "dense fp32"
    whole = onnx.load(written[1.0].path)
    assert _payload(onnx.load(path)) == _payload(whole) > 77_000 * 4
    assert 0 < path.stat().st_size - whole.ByteSize() < 1500, "every attribute is stated"


def _payload(model: onnx.ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


class Recurrent(nn.Module):
    """Goes over an image's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        outputs, _ = self.rows(images.squeeze(1))
        return self.head(outputs[:, -1])


@pytest.mark.slow
def test_a_recurrent_layers_zeros_are_packed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples, network = (torch.randn(4, 1, 8, 8),), Recurrent().eval()
    mask_applier(network, {name: torch.rand_like(weight) < 0.1 for name, weight in prunable(network).items()})()
    one = (samples[0][:1],)
    network = deployable(network, one)
    Onnx().write(network, one, tmp_path / "net.onnx", pack=True)
    Onnx().write(network, one, tmp_path / "dense.onnx", pack=False)
    assert (tmp_path / "net.onnx").stat().st_size < 0.4 * (tmp_path / "dense.onnx").stat().st_size
    np.testing.assert_allclose(Onnx().run(tmp_path / "net.onnx", samples)[0], network(*samples).numpy(), atol=1e-5)


def test_the_graph_is_lean(written: dict[float, Written]) -> None:
    model = onnx.load(written[0.05].path)
    assert model.ByteSize() - _payload(model) < 3500
    assert not model.graph.value_info
    assert not any(node.doc_string or node.metadata_props or len(node.name) > 2 for node in model.graph.node)
    assert [value.name for value in model.graph.input] == ["x"]


class Awkward(nn.Module):
    """What the optimizer of the exporter would change by value: equal weights, zero biases, ones, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.scale, self.shift = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))
        self.tied = self.first
        for parameter in (self.second.weight, self.first.bias, self.second.bias):
            nn.init.zeros_(parameter)
        nn.init.zeros_(self.first.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.tied(self.second(self.first(x)) * self.scale * mask + self.shift)


@pytest.mark.slow
def test_no_value_shapes_the_graph(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 32), torch.ones(1, 32))
    network = Awkward()
    packed_bytes = Onnx().packer(network, inputs)
    for _ in range(2):
        shipped = deployable(network, inputs)
        Onnx().write(shipped, inputs, tmp_path / "net.onnx", pack=True)
        assert packed_bytes(network) == (tmp_path / "net.onnx").stat().st_size
        np.testing.assert_allclose(
            Onnx().run(tmp_path / "net.onnx", inputs)[0], shipped(*inputs).numpy(), rtol=1e-4, atol=1e-5
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.1)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).abs()


def test_an_operator_that_onnx_lacks_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        Onnx().write(Complex(), (torch.randn(1, 3, 3),), tmp_path / "net.onnx", pack=True)
    assert (refused.value.code, refused.value.name) == ("not-convertible", "Complex")
    assert "linalg_eig" in str(refused.value)
    assert not (tmp_path / "net.onnx").exists()
