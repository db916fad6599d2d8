"""ONNX files that compute in fp16 between inputs and outputs in fp32, except for what fp16 does not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export import parity
from dwindle.export.exporter import _check
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.onnx.half import spelled_out
from dwindle.export.onnx.target import Onnx
from dwindle.export.options import ExportOptions
from dwindle.manifest import Manifest
from dwindle.models.signature import flat, signature_of
from dwindle.models.zoo import resnet8
from dwindle.onnx_session import infer, session
from studies.operators.cases import CASES
from tests.export.coreml.test_compute import RMS, samples

Changed = Callable[..., nn.Module]
IMAGES = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def half(precision: str | None = None) -> Onnx:
    return Onnx(precision).computing("fp16")


def exported(network: nn.Module, real: tuple[Tensor, ...], target: Onnx, folder: Path, packing: str) -> Manifest:
    network, example = network.eval().requires_grad_(False), (real[0][:1],)
    networks = {role: (network, deployable(network, example)) for role in ("net", "dense")}
    return export_networks(networks, example, real, folder, target, packing=packing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "packing"),
    [
        ("fp16", "auto"),
        ("fp16", "none"),
        ("int8", "auto"),
        ("int4", "auto"),
        ("palette4", "auto"),
        ("palette3", "auto"),
    ],
)
def test_a_pruned_network_computes_in_fp16(
    precision: str, packing: str, trained: Changed, masked: Changed, tmp_path: Path
) -> None:
    network = masked(trained(resnet8(in_channels=1)), 0.2)
    manifest = exported(network, IMAGES, half(precision), tmp_path / "out", packing)
    assert (manifest.precision, manifest.dense_precision, manifest.compute) == (precision, "fp16", "fp16")
    assert manifest.fp32 == ()
    assert manifest.parity.relative is not None
    assert manifest.parity.relative < 2e-3
    assert manifest.parity.tolerance == parity.TOLERANCE["fp16"]
    assert manifest.parity.weights_equal == len(list(deployable(network, (IMAGES[0][:1],)).state_dict()))
    assert "rounded to fp16" in (manifest.parity.run_by or "")
    model = onnx.load(tmp_path / "out" / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert ("survivors" in manifest.encoding) == bool(model.functions) == (packing == "auto")
    outer = (*model.graph.input, *model.graph.output)
    assert {value.type.tensor_type.elem_type for value in outer} == {TensorProto.FLOAT}
    kinds = [node.op_type for node in model.graph.node if not node.domain]
    assert kinds.count("Cast") == 2  # where the input comes in, and where the output goes out
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in model.graph.initializer}


def test_an_overflow_that_cpus_hide_fails(tmp_path: Path) -> None:
    """onnxruntime's kernels for CPUs compute in fp32 and do not round in between."""
    network, real = RMS().eval().requires_grad_(False), samples(1000.0)
    example, path = (real[0][:1],), tmp_path / "net.onnx"
    shipped = deployable(network, example)
    half().write(shipped, example, path, pack=True)
    with pytest.raises(ParityFailed) as failed:
        parity.check(half(), path, network, shipped, real)
    assert failed.value.code == "outputs-differ"
    (found,) = infer(session(spelled_out(onnx.load(path)).SerializeToString()))([example[0].numpy()])
    assert not np.allclose(found, network(example[0]).numpy(), rtol=0.1)


@pytest.mark.slow
def test_what_fp16_does_not_hold_stays_in_fp32(tmp_path: Path) -> None:
    manifest = exported(RMS(), samples(1000.0), half(), tmp_path / "out", "auto")
    assert [name.split()[0] for name in manifest.fp32][:2] == ["Pow", "ReduceMean"]
    assert not any(name.startswith(("Gemm", "MatMul")) for name in manifest.fp32)
    assert manifest.parity.relative is not None
    assert Manifest.read(tmp_path / "out").fp32 == manifest.fp32


def test_a_file_that_fp16_holds_is_as_it_was() -> None:
    network, real, target = RMS().eval().requires_grad_(False), samples(1.0), half()
    example = (real[0][:1],)
    assert target.holding(deployable(network, example), example, real) is target


@pytest.mark.slow
def test_the_packer_counts_what_write_writes(trained: Changed, masked: Changed, tmp_path: Path) -> None:
    network, example = masked(trained(resnet8(in_channels=1)), 0.2).eval(), (IMAGES[0][:1],)
    target = half("int8")
    target.write(deployable(network, example), example, tmp_path / "net.onnx", pack=True)
    assert target.packer(network, example)(network) == (tmp_path / "net.onnx").stat().st_size


class Mixed(nn.Module):
    """What takes or makes other types than fp16, numbers that it does not hold, and outputs that something reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Conv2d(1, 4, 3, padding=1), nn.Parameter(torch.tensor(1.5))
        self.register_buffer("steps", torch.arange(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x) * self.scale
        bigger = F.interpolate(y, scale_factor=2.0, mode="bilinear")
        masked = y.masked_fill(y < 0, -1e9).softmax(1)
        return (
            x,
            y,
            bigger + self.steps.float()[:, None, None],
            masked,
            y.argmax(1),
            y.relu().sum((2, 3)) * torch.ones(4),
        )


@pytest.mark.slow
def test_other_types_and_outputs_that_are_read_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    network = flat(network, signature_of(network, (IMAGES[0][:1],)))
    manifest = exported(network, IMAGES, half(), tmp_path / "out", "auto")
    assert manifest.parity.relative is not None
    assert any(name.startswith(("Where", "Softmax")) for name in manifest.fp32)


@pytest.mark.parametrize(
    ("precision", "compute", "code"), [("w8a8", "fp16", "conflict"), ("fp16", "bf16", "unknown-name")]
)
def test_what_it_cannot_compute_in_is_refused(precision: str, compute: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        Onnx(precision).computing(compute)
    assert (refused.value.code, refused.value.option) == (code, "compute")


def test_weights_in_fp32_are_refused() -> None:
    with pytest.raises(UsageError) as refused:
        _check(ExportOptions(precision="fp32", compute="fp16"))
    assert (refused.value.code, refused.value.option) == ("conflict", "compute")


NOT = {
    *("avg_pool2d divisor", "scaled_dot_product_attention", "cumprod", "random", "erfinv", "median"),
    *("index_add", "scatter_add"),
}
"""What is refused in fp32 too, and what onnxruntime's CPU adds up in fp32 alone (ScatterND)."""
JUMPING = {
    *("topk of equal values, places", "topk, places", "argsort", "argmax", "argmin of equal values", "one_hot"),
    *("round", "sign", "remainder", "fmod", "hardshrink", "threshold", "grid_sample nearest", "gather"),
}
"""Functions that jump, where rounding may fall on either side."""
STEEP = {"sin": 1e-2}
"""How far off those are that make more of the rounding of what they read: a sine of 20 reads steps of 1/64."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT - JUMPING))
def test_an_operator_is_right(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, x = CASES[name]
    manifest = exported(made(), (x,), half(), tmp_path / "out", "auto")
    assert manifest.parity.relative is not None
    assert manifest.parity.relative < STEEP.get(name, 2e-3)
