"""Values that fp16 does not hold: what makes them computes in fp32, or everything does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export import parity
from dwindle.export.coreml.read import main_block, read, weights
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks


class RMS(nn.Module):
    """RMSNorm as language models write it out, between two layers whose weights are pruned."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)
        with torch.no_grad():
            for layer in (self.first, self.last):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
                layer.weight *= torch.rand(layer.weight.shape, generator=generator) < 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        normed: Tensor = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.last(normed)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return RMS().eval().requires_grad_(False)


def samples(scale: float) -> tuple[Tensor]:
    return (scale * torch.randn(6, 8, generator=torch.Generator().manual_seed(1)),)


@pytest.mark.slow
def test_without_them_squares_overflow(network: nn.Module, tmp_path: Path) -> None:
    real, path = samples(1000.0), tmp_path / "net.mlpackage"
    shipped = deployable(network, (real[0][:1],))
    CoreML().write(shipped, (real[0][:1],), path, pack=True)
    with pytest.raises(ParityFailed):
        parity.check(CoreML(), path, network, shipped, real)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1000.0, 1e-4])
def test_squares_beyond_fp16_compute_in_fp32(network: nn.Module, scale: float, tmp_path: Path) -> None:
    real, said = samples(scale), list[str]()
    example = (real[0][:1],)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    manifest = export_networks(networks, example, real, tmp_path / "out", CoreML(), said.append)
    assert manifest.parity.relative is not None
    assert any(name.startswith(("pow", "square", "mul")) for name in manifest.fp32)
    assert not any(name.startswith("linear") for name in manifest.fp32)
    assert any(manifest.fp32[0] in line and "compute in fp32" in line for line in said)
    kinds = {array.dtype.name for array in weights(tmp_path / "out" / "net.mlpackage").values() if array.ndim == 2}
    assert kinds == {"float16"}


@pytest.mark.slow
def test_a_file_that_fp16_holds_is_as_it_was(network: nn.Module, tmp_path: Path) -> None:
    target, example = CoreML(), (samples(1.0)[0][:1],)
    assert target.holding(deployable(network, example), example, samples(1.0)) is target


@pytest.mark.slow
def test_everything_computes_in_fp32_on_request(network: nn.Module, tmp_path: Path) -> None:
    real, path = samples(1000.0), tmp_path / "net.mlpackage"
    target, example = CoreML().computing("fp32"), (real[0][:1],)
    shipped = deployable(network, example)
    words = target.write(shipped, example, path, pack=True)
    assert words in ("bitmask + fp32 survivors", "dense fp32")
    found = parity.check(target, path, network, shipped, real)
    assert (found.tolerance, found.weights_equal) == (parity.TOLERANCE["fp32"], 3)
    assert "cast" not in {operation.type for operation in main_block(read(path)[0]).operations}


@pytest.mark.parametrize(
    ("precision", "compute", "code"), [("int8", "fp32", "conflict"), ("fp16", "fp64", "unknown-name")]
)
def test_what_it_cannot_compute_in_is_refused(precision: str, compute: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        CoreML(precision).computing(compute)
    assert (refused.value.code, refused.value.option) == (code, "compute")
