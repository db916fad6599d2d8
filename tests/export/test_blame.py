"""Refusals name the operator, the module and the line of the model's code."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.blame import called
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.onnx.target import Onnx
from dwindle.export.quality import sqnr
from dwindle.export.quantize import store
from dwindle.export.target import Target

HERE = Path(__file__).name


class Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).abs()


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


def line(kind: type[nn.Module], offset: int) -> int:
    return inspect.getsourcelines(kind)[1] + offset


def test_an_operator_that_onnx_lacks_is_named_with_its_module_and_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        Onnx().write(Outer(Eigen()).eval(), (torch.randn(1, 3, 3),), tmp_path / "net.onnx", pack=True)
    assert "linalg_eig" in str(refused.value)
    assert f" in inner ({HERE}, line {line(Eigen, 2)})" in str(refused.value)


def test_a_line_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        deployable(Outer(Branch()), (torch.randn(1, 3),))
    assert refused.value.code == "not-traceable"
    assert f"{HERE}, line {line(Branch, 2)}" in str(refused.value)


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (-1 - x.abs()).sqrt()


@pytest.mark.parametrize("name", ["onnx"])
def test_a_network_whose_own_outputs_are_no_numbers_is_refused_first(name: str, tmp_path: Path) -> None:
    network, inputs = nn.Sequential(nn.Linear(4, 4), Root(), nn.Linear(4, 2)).eval(), (-torch.rand(3, 4),)
    example = (inputs[0][:1],)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    with pytest.raises(UsageError) as refused:
        export_networks(networks, example, inputs, tmp_path / "out", targets.load(name))
    assert (refused.value.code, refused.value.name) == ("not-finite", "1")
    assert not (tmp_path / "out").exists()


class Causal(nn.Module):
    """Attention over an image's rows, none of which looks ahead: a mask of zeros and infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(1)
        scores = self.q(x) @ self.k(x).transpose(1, 2) + self.mask
        return self.head((scores.softmax(-1) @ self.v(x)).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        targets.load("onnx", "fp16"),
        targets.load("onnx", "int8"),
        ExecuTorch("int8"),
    ],
    ids=lambda target: f"{target.name}-{target.precision}",
)
def test_an_infinite_buffer_is_stored_as_it_is(target: Target, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Causal().eval().requires_grad_(False), (torch.randn(16, 1, 8, 8),)
    example = (inputs[0][:1],)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    manifest = export_networks(networks, example, inputs, tmp_path / "out", target.calibrated(inputs))
    assert manifest.parity.relative is not None
    assert manifest.quality is not None
    assert "mask" not in manifest.quality.tensors


def test_an_infinity_is_no_noise() -> None:
    exact = np.array([1.0, -np.inf, 2.0], np.float32)
    assert sqnr(exact, exact) is None
    assert sqnr(exact, exact + np.float32(0.1)) == pytest.approx(24.0, abs=0.1)
    held = store("mask", np.triu(np.full((8, 8), -np.inf, np.float32), 1), "int8")
    assert held.values.dtype == np.float16


@pytest.mark.parametrize(
    "name", ["coreml", pytest.param("litert", marks=[pytest.mark.slow, pytest.mark.needs("litert")])]
)
def test_what_a_format_lacks_is_named_with_its_module_and_line(name: str, tmp_path: Path) -> None:
    target = targets.load(name)
    with pytest.raises(UsageError) as refused:
        target.write(Outer(Eigen()).eval(), (torch.randn(1, 3, 3),), tmp_path / f"net{target.suffix}", pack=True)
    assert "linalg_eig" in str(refused.value)
    assert f" in inner ({HERE}, line {line(Eigen, 2)})" in str(refused.value)


def test_operators_are_named_as_pytorch_does() -> None:
    program = torch.export.export(First(), (torch.randn(2, 4),))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert {called(node) for node in calls} == {"aten.topk.default"}
    edge = torch.fx.Graph().call_function(Edge("aten.relu.default"))  # type: ignore[arg-type]
    assert called(edge) == "aten.relu.default"


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.topk(2)[0]


class Edge:
    """Describes itself as ExecuTorch's operators do."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__module__ = self.name = name

    def __call__(self) -> None: ...

    def __str__(self) -> str:
        return f"<EdgeOpOverload: {self.name}>: schema = aten::relu(Tensor self) -> Tensor"


def test_samples_that_are_no_numbers_are_refused_and_not_the_network(tmp_path: Path) -> None:
    network, inputs = nn.Linear(4, 4).eval(), (torch.full((3, 4), torch.nan),)
    example = (torch.rand(1, 4),)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    with pytest.raises(UsageError) as refused:
        export_networks(networks, example, inputs, tmp_path / "out", targets.load("onnx"))
    assert (refused.value.code, refused.value.name) == ("not-finite", "inputs")
