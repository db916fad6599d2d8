from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export.fold import deployable, short_names
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import Compared, compare
from dwindle.models.signature import flat, signature_of
from dwindle.models.zoo import resnet8
from dwindle.onnx_session import session

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
REAL = (torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(3)),)


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    target: Onnx
    path: Path
    compared: Compared


@pytest.fixture(scope="module")
def written(trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("qdq") / "net.onnx"
    network = masked(trained(resnet8(in_channels=1)), 0.2).eval()
    shipped, target = deployable(network, example), Onnx("w8a8").calibrated(REAL)
    assert target.write(shipped, example, path, pack=True) == "Golomb-Rice + int8 survivors"
    return Written(network, shipped, target, path, compare(target, path, network, shipped, REAL))


def computed_by(path: Path, folder: Path) -> Counter[str]:
    """The operators that onnxruntime runs a file by."""
    optimized = folder / "optimized.onnx"
    session(str(path), options={"optimized_model_filepath": str(optimized)})
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


@pytest.mark.slow
def test_the_file_is_the_network_of_rounded_weights_and_activations(written: Written) -> None:
    parity = written.compared.parity
    assert (parity.weights_equal, parity.samples) == (20, 24)
    assert parity.relative is not None
    assert parity.tolerance is not None
    assert parity.relative < parity.tolerance < 0.1
    onnx.checker.check_model(onnx.load(written.path), full_check=True)


@pytest.mark.slow
def test_unpacked_weights_stay_int8_in_every_kernel(written: Written, tmp_path: Path) -> None:
    kinds = computed_by(written.path, tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QGemm"]) == (9, 3, 1)
    assert not kinds["Conv"] + kinds["Gemm"] + kinds["Add"] + kinds["ScatterElements"]


def test_pruned_weights_are_zero_in_the_file(written: Written) -> None:
    held = written.target.decode(written.path, written.shipped)
    for name, tensor in written.shipped.named_parameters():
        if tensor.dim() > 1:
            assert not held[name][tensor.numpy() == 0].any()


@pytest.mark.slow
def test_without_packing_weights_and_scales_are_plain_constants(
    written: Written, example: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "plain.onnx"
    assert written.target.write(written.shipped, example, path, pack=False) == "dense int8"
    model = onnx.load(path)
    assert not model.functions
    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    name = short_names(written.shipped)["conv.weight"]
    assert (constants[f"{name}i"].dtype, constants[f"{name}i"].shape) == (np.int8, (16, 1, 3, 3))
    assert (constants[f"{name}iq"].dtype, constants[f"{name}iq"].shape) == (np.float32, (16,))
    (packed,), (plain,) = (written.target.run(file, REAL) for file in (written.path, path))
    assert np.array_equal(packed, plain)


@pytest.mark.slow
def test_the_packer_says_what_write_wrote(written: Written, masked: Changed, trained: Changed, example: Inputs) -> None:
    other = masked(trained(resnet8(in_channels=1), seed=5), 0.7, seed=5)
    assert Onnx("w8a8").packer(other, example)(written.network) == written.path.stat().st_size


def test_one_code_that_differs_is_found(written: Written, tmp_path: Path) -> None:
    model = onnx.load(written.path)
    codes = max(
        (one for one in model.graph.initializer if one.data_type == onnx.TensorProto.INT8),
        key=lambda one: len(one.raw_data),
    )
    changed = bytearray(codes.raw_data)
    changed[100] ^= 1
    codes.raw_data = bytes(changed)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ParityFailed) as failed:
        compare(written.target, tmp_path / "net.onnx", written.network, written.shipped, REAL)
    assert failed.value.code == "weights-differ"


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
def test_operators_without_an_int8_form_stay_float_among_those_that_have_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 12, 12),)
    one = (real[0][:1],)
    network = Mixed().eval()
    network = flat(network, signature_of(network, one))
    shipped, target, path = deployable(network, one), Onnx("w8a8").calibrated(real), tmp_path / "net.onnx"
    target.write(shipped, one, path, pack=True)
    parity = compare(target, path, network, shipped, real).parity
    assert parity.weights_equal == 13
    assert parity.relative is not None
    assert parity.relative < 0.1
    kinds = computed_by(path, tmp_path)
    assert (kinds["QLinearConv"], kinds["QLinearConcat"], kinds["QGemm"]) == (3, 1, 3)
    assert kinds["ConvTranspose"] == 1


def test_a_layer_and_the_relu6_after_it_are_one_kernel_whose_codes_begin_at_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(12, 3, 8, 8),)
    one = (real[0][:1],)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3), nn.ReLU6(inplace=True), nn.Flatten())
    shipped, target, path = deployable(network.eval(), one), Onnx("w8a8").calibrated(real), tmp_path / "net.onnx"
    target.write(shipped, one, path, pack=False)
    assert compare(target, path, network, shipped, real).parity.weights_equal == 4
    kinds = computed_by(path, tmp_path)
    assert kinds["QLinearConv"] == 2
    assert not kinds["Conv"] + kinds["Clip"]
    graph = onnx.load(path).graph
    constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert [int(constants[node.input[2]]) for node in rounded[1:3]] == [0, 0]


class Branching(nn.Module):
    """With operators that have no int8 form, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.unused = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(nn.functional.hardswish(self.first(x)).reshape(1, -1)), -1)


def test_what_has_no_int8_form_is_named_and_a_layer_that_is_never_called_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = (torch.randn(20, 8),)
    shipped = deployable(Branching().eval(), (real[0][:1],))
    target = Onnx("w8a8").calibrated(real).holding(shipped, (real[0][:1],), real)
    assert target.fp32 == ("hardswish", "softmax")
    target.write(shipped, (real[0][:1],), tmp_path / "net.onnx", pack=True)
    expected = shipped(real[0][:1]).numpy()
    assert abs(target.run(tmp_path / "net.onnx", (real[0][:1],))[0] - expected).max() < 0.1


class Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x) / 0.0)


def test_values_that_are_never_finite_have_no_range(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        Onnx("w8a8").calibrated((torch.rand(4, 4),)).write(
            Infinite().eval().requires_grad_(False), (torch.rand(1, 4),), tmp_path / "net.onnx", pack=True
        )
    assert refused.value.code == "no-range"
    assert "div" in (refused.value.name or "")
