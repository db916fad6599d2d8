"""The arithmetic of it on the CPU, where there are no sparse tensor cores: `test_cuda.py` has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.bench.devices.semi_structured import Product, layers, sparse
from dwindle.export.pytorch import PyTorch


class Every(nn.Module):
    """What may become a product, and what may not: named so."""

    def __init__(self) -> None:
        super().__init__()
        self.not_stem = nn.Conv2d(3, 64, 3, padding=1)
        self.square = nn.Conv2d(64, 64, 3, 2, padding=1)
        self.oblong = nn.Conv2d(64, 64, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1), bias=False)
        self.pointwise = nn.Conv2d(64, 64, 1)
        self.not_grouped = nn.Conv2d(64, 64, 3, groups=16, padding=1)
        self.not_pruned = nn.Conv2d(64, 64, 1)
        self.linear = nn.Linear(64, 64)
        self.not_small = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pointwise(self.oblong(self.square(self.not_stem(x)).relu()).relu())
        x = self.not_pruned(self.not_grouped(x)).mean((2, 3))
        return self.not_small(self.linear(x).relu())


def pruned(network: nn.Module) -> nn.Module:
    """2:4 along the input channels, wherever their number allows it."""
    with torch.no_grad():
        for name, module in network.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.shape[1] % 4 or name == "not_pruned":
                continue
            groups = weight.movedim(1, -1).unflatten(-1, (-1, 4))
            kept = groups.abs().argsort(-1, descending=True)[..., :2]
            mask = torch.zeros_like(groups).scatter_(-1, kept, 1.0)
            weight *= mask.flatten(-2).movedim(-1, 1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("every") / "net.pt2"
    network = pruned(Every())
    PyTorch().write(network, (torch.zeros(1, 3, 12, 14),), path, pack=True)
    return network, path


def test_the_layers_are_those_that_the_cores_take(written: tuple[nn.Module, Path]) -> None:
    found = layers(PyTorch().loaded(written[1]))
    assert found == ["square.weight", "oblong.weight", "pointwise.weight", "linear.weight"]


def test_products_compute_what_the_layers_did(written: tuple[nn.Module, Path]) -> None:
    network, path = written
    packed: list[Tensor] = []

    def pack(matrix: Tensor) -> Tensor:
        assert ((matrix.reshape(-1, 4) != 0).sum(1) <= 2).all()
        packed.append(matrix)
        return matrix.clone()

    program = sparse(PyTorch().loaded(path), pack)
    assert [tuple(matrix.shape) for matrix in packed] == [(64, 576), (64, 192), (64, 64), (64, 64)]
    assert len([module for module in program.modules() if isinstance(module, Product)]) == 4
    x = torch.randn(1, 3, 12, 14)
    torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-5)
    for matrix in (module for module in program.modules() if isinstance(module, Product)):
        matrix.matrix.zero_()  # nothing else computes with the weights now
    assert not torch.allclose(program(x), network(x), rtol=1e-2, atol=1e-3)


def test_in_half_precision_too(written: tuple[nn.Module, Path]) -> None:
    """The check of its inputs that torch.export puts into a program is gone."""
    program = sparse(PyTorch().loaded(written[1]).half(), lambda matrix: matrix)
    x = torch.randn(1, 3, 12, 14)
    expected = written[0](x)
    assert float((program(x.half()).float() - expected).abs().max()) < 2e-2 * float(expected.abs().max())


def test_a_program_without_any_stays_as_it_is(tmp_path: Path) -> None:
    network, x = Every().eval().requires_grad_(False), torch.randn(1, 3, 12, 14)
    PyTorch().write(network, (x,), tmp_path / "net.pt2", pack=True)
    program = PyTorch().loaded(tmp_path / "net.pt2")
    assert layers(program) == []
    torch.testing.assert_close(sparse(program, torch.clone)(x), network(x))
