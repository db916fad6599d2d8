from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed
from dwindle.export.fold import deployable
from dwindle.export.litert import file
from dwindle.export.litert.target import LiteRT
from dwindle.export.parity import Compared, compare
from dwindle.manifest import Parity
from dwindle.models.signature import flat, signature_of
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
REAL = (torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)
FLOAT32, INT8 = 0, 9

pytestmark = pytest.mark.needs("litert")


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    target: LiteRT
    path: Path
    compared: Compared


@pytest.fixture(scope="module")
def written(trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("litert") / "net.tflite"
    network = masked(trained(resnet8(in_channels=1)), 0.2).eval()
    with torch.no_grad():
        network.get_parameter("stage2.0.conv1.weight")[3] = 0  # a channel that only its bias is left of
    shipped, target = deployable(network, example), LiteRT("w8a8").calibrated(REAL)
    assert target.write(shipped, example, path, pack=True) == "dense int8"
    return Written(network, shipped, target, path, compare(target, path, network, shipped, REAL))


def computed_by(path: Path) -> Counter[tuple[int, int]]:
    """How many operators of each kind have a first input of each type."""
    model = file.parse(path.read_bytes())
    (graph,) = model.subgraphs
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    return Counter((codes[one.opcodeIndex], graph.tensors[one.inputs[0]].type) for one in graph.operators)


@pytest.mark.slow
def test_the_file_is_the_network_of_rounded_weights_and_activations(written: Written) -> None:
    parity = written.compared.parity
    assert (parity.weights_equal, parity.samples) == (10, 16)
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert 0 < parity.relative < parity.tolerance < 0.1


@pytest.mark.slow
def test_it_computes_in_int8_between_a_float_input_and_a_float_output(written: Written) -> None:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    kinds = computed_by(written.path)
    assert kinds[BuiltinOperator.CONV_2D, INT8] + kinds[BuiltinOperator.DEPTHWISE_CONV_2D, INT8] == 9
    assert {kind for kind, dtype in kinds if dtype == FLOAT32} == {BuiltinOperator.QUANTIZE}
    (graph,) = file.parse(written.path.read_bytes()).subgraphs
    assert [graph.tensors[place].type for place in (*graph.inputs, *graph.outputs)] == [FLOAT32, FLOAT32]


def test_pruned_weights_are_zero_in_the_file(written: Written) -> None:
    held = written.target.decode(written.path, written.shipped)
    for name, array in held.items():
        assert not array[written.shipped.get_parameter(name).numpy() == 0].any()


def test_one_code_that_differs_is_found(written: Written, tmp_path: Path) -> None:
    model = file.parse(written.path.read_bytes())
    largest = max(model.buffers, key=lambda one: 0 if one.data is None else len(one.data))
    codes = bytearray(largest.data)
    codes[100] ^= 1
    largest.data = bytes(codes)
    (tmp_path / "net.tflite").write_bytes(file.serialize(model))
    with pytest.raises(ParityFailed) as failed:
        compare(written.target, tmp_path / "net.tflite", written.network, written.shipped, REAL)
    assert failed.value.code == "weights-differ"


@pytest.mark.slow
def test_the_packer_says_what_write_wrote(written: Written, masked: Changed, trained: Changed, example: Inputs) -> None:
    other = masked(trained(resnet8(in_channels=1), seed=5), 0.7, seed=5)
    assert LiteRT("w8a8").packer(other, example)(written.network) == written.path.stat().st_size


def test_data_behind_the_tables_is_read(written: Written) -> None:
    model = file.parse(written.path.read_bytes())
    largest = max(model.buffers, key=lambda one: 0 if one.data is None else len(one.data))
    data = bytes(largest.data)
    largest.data, largest.size, largest.offset = None, len(data), 2**20
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    content = bytes(builder.Output()).ljust(2**20, b"\0") + data
    assert data in {bytes(one.data) for one in file.parse(content).buffers if one.data is not None}
    with pytest.raises(ValueError, match="past its end"):
        file.parse(content[:-1])


def compared(network: nn.Module, real: tuple[Tensor, ...], path: Path) -> Parity:
    """How a network's file compares with it, calibrated and compared on the same samples."""
    one = tuple(tensor[:1] for tensor in real)
    shipped, target = deployable(network.eval(), one), LiteRT("w8a8").calibrated(real)
    target.write(shipped, one, path, pack=True)
    return compare(target, path, network, shipped, real).parity


@pytest.mark.slow
def test_max_pooling_that_pads_is_in_int8(tmp_path: Path) -> None:
    """It is converted to padding by -inf, of which no scale follows."""
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 9, 9) - 1,)
    pool = nn.MaxPool2d(3, 2, padding=1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten())
    assert compared(network, real, tmp_path / "net.tflite").weights_equal == 2
    shipped = deployable(network, (real[0][:1],))
    assert LiteRT("w8a8").calibrated(real).holding(shipped, (real[0][:1],), real).fp32 == ()


class Squeezed(nn.Module):
    """Hard-swish, and squeeze and excitation with a hard-sigmoid, as in MobileNetV3, with constants that are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.squeeze, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.a(x))
        y = y * nn.functional.hardsigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return nn.functional.hardswish(self.b(y)).flatten(1)


@pytest.mark.slow
def test_what_the_quantizer_leaves_unread_has_no_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 9, 9),)
    assert compared(Squeezed(), real, tmp_path / "net.tflite").weights_equal == 3


class Mixed(nn.Module):
    """A concatenation, hard-swish, squeeze and excitation, a depthwise and a transposed convolution, an embedding of
    places, which is a weight of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1, bias=False)
        self.c, self.squeeze = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Linear(16, 16)
        self.up, self.head = nn.ConvTranspose2d(16, 4, 2, 2), nn.Linear(4, 3)
        self.places = nn.Parameter(torch.randn(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([nn.functional.relu6(self.a(x)), torch.relu(self.b(x))], 1) + self.places
        y = nn.functional.max_pool2d(nn.functional.hardswish(self.c(y)), 2)
        y = self.up(y * torch.sigmoid(self.squeeze(y.mean((2, 3))))[:, :, None, None])
        return self.head(y.mean((2, 3)))


@pytest.mark.slow
def test_operators_that_read_other_weights_stay_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 12, 12),)
    parity = compared(Mixed(), real, tmp_path / "net.tflite")
    assert (parity.weights_equal or 0) >= 5
    assert parity.relative is not None
    assert parity.relative < 0.1


@pytest.mark.slow
def test_a_value_that_is_an_output_too_is_read_in_int8(tmp_path: Path) -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.conv(x).relu().mean((2, 3))
            return self.head(features), features

    torch.manual_seed(0)
    made, example = Features().eval(), (REAL[0][:1],)
    network, path = deployable(flat(made, signature_of(made, example)), example), tmp_path / "net.tflite"
    target = LiteRT("w8a8").calibrated(REAL)
    target.write(network, example, path, pack=True)
    assert compare(target, path, made, network, REAL).parity.samples == 16
    kinds = computed_by(path)
    assert kinds[(9, INT8)] == 1  # FULLY_CONNECTED
    assert kinds[(9, FLOAT32)] == 0
