from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import compare
from dwindle.export.quality import quality, sentence, sqnr
from dwindle.manifest import Quality

Inputs = tuple[Tensor, ...]


def cost(layer: nn.Module, precision: str, inputs: Inputs, folder: Path) -> Quality | None:
    """Of an ONNX file of the layer."""
    target, path = Onnx(precision), folder / "net.onnx"
    target.write(layer, tuple(tensor[:1] for tensor in inputs), path, pack=True)
    return quality(layer, precision, compare(target, path, layer, layer, inputs))


def test_the_ratio_in_decibels() -> None:
    exact = np.full(1000, 2.0, np.float32)
    assert sqnr(exact, exact + np.float32(0.2)) == pytest.approx(20, abs=1e-4)
    assert sqnr(exact, exact) is None
    assert sqnr(0 * exact, exact) is None


@pytest.mark.slow
def test_what_int8_costs_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(200, 30, bias=False).requires_grad_(False)
    inputs = (torch.randn(70, 200),)
    found = cost(layer, "int8", inputs, tmp_path)
    assert found is not None
    assert found.samples == 64
    assert found.tensors.keys() == {"weight"}
    assert 40 < found.tensors["weight"] < 50  # uniform weights: 6.02 · 8 − 4.77 + 4.77 − up to 0.55 for the scale
    assert found.sqnr == pytest.approx(found.tensors["weight"], abs=2)
    assert sentence(found, "int8").startswith("int8 against fp32: SQNR of the outputs ")
    half = cost(layer, "fp16", inputs, tmp_path)
    assert half is not None
    assert half.tensors["weight"] > 65
    assert cost(layer, "fp32", inputs, tmp_path) is None


def test_nothing_lost_is_said(tmp_path: Path) -> None:
    layer = nn.Linear(8, 2).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.zero_()
    found = cost(layer, "int8", (torch.ones(3, 8),), tmp_path)
    assert found is not None
    assert (found.sqnr, found.tensors, found.top1_agreement) == (None, {}, 1)
    assert sentence(found, "int8") == "int8 changes no output"


def test_weights_that_fewer_bits_hold_exactly_are_said(tmp_path: Path) -> None:
    layer = nn.Linear(8, 2).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.fill_(0.5)
    found = cost(layer, "fp16", (torch.randn(3, 8),), tmp_path)
    assert found is not None
    assert found.tensors == {}
    assert sentence(found, "fp16").startswith("fp16 changes no ")
