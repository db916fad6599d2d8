from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export.fold import deployable, tensors
from dwindle.export.onnx import Onnx

Inputs = tuple[Tensor, ...]
Masked = Callable[..., nn.Module]


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_the_file_computes_what_the_network_does(
    network: nn.Module, masked: Masked, example: Inputs, samples: Inputs, tmp_path: Path, density: float
) -> None:
    path = tmp_path / "net.onnx"
    shipped = deployable(masked(network, density), example)
    encoding = Onnx().write(shipped, example, path, pack=True)
    assert encoding == ("dense fp32" if density == 1 else "bitmask + fp32 survivors")

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    outputs = Onnx().run(path, samples)
    np.testing.assert_allclose(outputs, shipped(*samples).numpy(), rtol=1e-4, atol=1e-5)
    by_reference = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: samples[0][:1].numpy()})[0]
    np.testing.assert_allclose(by_reference, outputs[:1], rtol=1e-4, atol=1e-5)

    decoded, held = Onnx().decode(path, shipped), tensors(shipped)
    assert len(decoded) == 20
    for name, weights in decoded.items():
        assert weights.tobytes() == held[name].numpy().tobytes()


def test_the_packer_says_what_write_would_write(
    network: nn.Module, trained: Masked, masked: Masked, example: Inputs, tmp_path: Path
) -> None:
    packed_bytes = Onnx().packer(network, example)
    for seed, density in enumerate((1.0, 0.2, 0.0)):
        candidate = masked(trained(network, seed), density, seed)
        Onnx().write(deployable(candidate, example), example, tmp_path / "net.onnx", pack=True)
        assert packed_bytes(candidate) == (tmp_path / "net.onnx").stat().st_size


def test_zeros_cost_the_dense_file_nothing_less(
    network: nn.Module, masked: Masked, example: Inputs, tmp_path: Path
) -> None:
    sizes = set()
    for density in (1.0, 0.1):
        shipped = deployable(masked(network, density), example)
        assert Onnx().write(shipped, example, tmp_path / "dense.onnx", pack=False) == "dense fp32"
        sizes.add((tmp_path / "dense.onnx").stat().st_size)
    assert len(sizes) == 1


def test_the_graph_is_lean(network: nn.Module, masked: Masked, example: Inputs, tmp_path: Path) -> None:
    shipped = deployable(masked(network, 0.1), example)
    Onnx().write(shipped, example, tmp_path / "net.onnx", pack=True)
    model = onnx.load(tmp_path / "net.onnx")
    payload = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    assert model.ByteSize() - payload < 2400
    assert not model.graph.value_info
    assert not any(node.name or node.doc_string or node.metadata_props for node in model.graph.node)
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


def test_no_value_shapes_the_graph(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 32), torch.ones(1, 32))
    network = Awkward()
    packed_bytes = Onnx().packer(network, inputs)
    for _ in range(2):
        shipped = deployable(network, inputs)
        Onnx().write(shipped, inputs, tmp_path / "net.onnx", pack=True)
        assert packed_bytes(network) == (tmp_path / "net.onnx").stat().st_size
        np.testing.assert_allclose(
            Onnx().run(tmp_path / "net.onnx", inputs), shipped(*inputs).numpy(), rtol=1e-4, atol=1e-5
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0, 0.1)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).abs()


def test_an_operator_that_onnx_lacks_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^Complex cannot be written as ONNX: .*linalg_eig.*$"):
        Onnx().write(Complex(), (torch.randn(1, 3, 3),), tmp_path / "net.onnx", pack=True)
    assert not (tmp_path / "net.onnx").exists()
