"""A file of one layer is that layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dwindle.bench.prices.one_layer import module, written
from dwindle.export.target import load
from dwindle.price import Shape

LAYERS = (
    Shape(8, 16, (7, 7), (3, 3), (2, 2), (1, 1), (1, 1)),
    Shape(8, 8, (7, 7), (5, 5), (1, 1), (2, 2), (1, 1), 8),
    Shape(8, 4, (9,), (3,), (1,), (0,), (2,), 2),
    Shape(12, 5, ()),
    Shape(12, 5, (3,)),
)


@pytest.mark.parametrize("shape", LAYERS)
def test_the_file_has_the_layer(shape: Shape, tmp_path: Path) -> None:
    ((path, sample),) = written([shape], "onnx", "fp32", tmp_path)
    (found,) = load("onnx").run(path, tuple(map(torch.from_numpy, sample)))
    np.testing.assert_allclose(found, module(shape)(torch.from_numpy(sample[0])).numpy(), atol=1e-5)
    assert found.size == shape.activations - sample[0].size


def test_one_that_computes_in_int8_is_calibrated(tmp_path: Path) -> None:
    ((path, sample),) = written(LAYERS[:1], "onnx", "w8a8", tmp_path)
    (found,) = load("onnx").run(path, tuple(map(torch.from_numpy, sample)))
    np.testing.assert_allclose(found, module(LAYERS[0])(torch.from_numpy(sample[0])).numpy(), atol=0.1)
