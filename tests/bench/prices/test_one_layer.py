"""A file of one layer is that layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dwindle.bench.prices import writing
from dwindle.bench.prices.one_layer import module, written
from dwindle.bench.prices.writing import written_aside
from dwindle.errors import UsageError
from dwindle.export.targets import load
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


@pytest.mark.slow
def test_processes_write_each_file_once_at_each_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SAYS", 0.05)
    said: list[str] = []
    found = written_aside(
        [LAYERS[0], LAYERS[3]], [("zoo:resnet8", 32)], "onnx", ["fp32", "w8a8"], tmp_path, said.append
    )
    assert {precision: len(files) for precision, files in found.items()} == {"fp32": 3, "w8a8": 3}
    assert any(line.startswith("0 of 6 files") for line in said)
    for precision, atol in (("fp32", 1e-5), ("w8a8", 0.1)):
        for shape, (path, sample) in zip((LAYERS[0], LAYERS[3]), found[precision], strict=False):
            (outputs,) = load("onnx").run(path, tuple(map(torch.from_numpy, sample)))
            np.testing.assert_allclose(outputs, module(shape)(torch.from_numpy(sample[0])).numpy(), atol=atol)
        path, (images,) = found[precision][2]
        (outputs,) = load("onnx").run(path, (torch.from_numpy(images),))
        assert (images.shape, outputs.shape) == ((1, 3, 32, 32), (1, 10))


@pytest.mark.slow
def test_what_a_process_refuses_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        written_aside([LAYERS[0]], [("resnet7", 32)], "onnx", ["fp32"], tmp_path, print)
    assert refused.value.code == "unknown-name"
    assert "resnet7" in str(refused.value)
