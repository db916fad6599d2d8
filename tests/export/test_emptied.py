"""A layer of which no weight survived, as pruning at few weights leaves some, goes through every target's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.export import parity, targets
from dwindle.export.fold import deployable, tensors
from dwindle.export.w8a8 import quantize

LITERT, MNN = pytest.mark.needs("litert"), pytest.mark.needs("mnn")
EACH = [
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("onnx", "palette4"),
    ("onnx", "w8a8"),
    ("coreml", "fp16"),
    ("coreml", "int8"),
    pytest.param("coreml", "palette4", marks=pytest.mark.slow),
    pytest.param("coreml", "w8a8", marks=pytest.mark.slow),
    pytest.param("executorch", "fp32", marks=pytest.mark.slow),
    pytest.param("executorch", "int8", marks=pytest.mark.slow),
    pytest.param("executorch", "w8a8", marks=pytest.mark.slow),
    pytest.param("litert", "fp32", marks=LITERT),
    pytest.param("litert", "fp16", marks=[LITERT, pytest.mark.slow]),
    pytest.param("litert", "w8a8", marks=[LITERT, pytest.mark.slow]),
    pytest.param("mnn", "fp32", marks=MNN),
    pytest.param("mnn", "int8", marks=MNN),
]


@pytest.mark.parametrize(("name", "precision"), EACH)
def test_a_layer_without_a_weight_left_is_written(name: str, precision: str, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64)]
    network = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
    with torch.no_grad():
        for layer in (network[0], network[8]):
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.3)
        for layer in (network[2], network[4]):
            layer.weight.zero_()
    samples, example = (torch.randn(4, 3, 12, 12),), (torch.randn(1, 3, 12, 12),)
    target = targets.load(name, precision)
    target = target.calibrated(samples) if precision == "w8a8" else target
    shipped, path = deployable(network, example), tmp_path / f"net{target.suffix}"
    target.write(shipped, example, path, pack=True)
    assert parity.check(target, path, network, shipped, samples).not_run is None


def test_a_bias_in_steps_that_float32_does_not_count_keeps_its_codes() -> None:
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU()).eval()
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.uniform_(0.5, 1)
    quantized = quantize(network, (1e-3 * torch.rand(8, 16),))
    (layer,) = quantized.layers
    assert layer.bias_codes is not None
    assert layer.bias_codes.max() > 2**24
    unit = torch.tensor(layer.scale) * 2**-12  # an input's steps are no smaller
    stored = tensors(quantized.weights_only)["0.bias"]
    assert torch.equal(torch.from_numpy(layer.bias_codes).float() * unit, stored)
