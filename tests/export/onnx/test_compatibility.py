"""Files in readers of ONNX of several years: each loads them and computes what the network does.

`make everything` installs the old releases, in environments of their own (`make .consumers/NAME`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench.devices import web
from dwindle.export.architecture import one_model
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.quantize import quantized, stored
from dwindle.models.zoo import resnet8

Changed = Callable[..., nn.Module]
Evaluate = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]
CONSUMERS = Path(__file__).parents[3] / ".consumers"
IMAGES = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """Two blocks of a transformer over an image's rows."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images.squeeze(1)).mean(1))


class Written(NamedTuple):
    folder: Path
    expected: dict[str, np.ndarray]


@pytest.fixture(scope="module")
@one_model()
def written(trained: Changed, masked: Changed, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Files by what is in them: `plain-` ones as tools beside onnxruntime read them."""
    folder, expected = tmp_path_factory.mktemp("compatibility"), {}
    torch.manual_seed(0)
    networks = {"convolutions": masked(trained(resnet8(in_channels=1)), 0.1), "attention": masked(Encoder(), 0.1)}
    kinds = {
        "convolutions": ("fp32", "int8", "palette4", "palette3", "palette1"),
        "attention": ("fp32", "int4"),
    }
    old = ("onnxruntime", (1, 15))
    for name, network in networks.items():
        shipped = deployable(network.eval(), (IMAGES,))
        for precision in kinds[name]:
            for pack in (True, False) if precision == "fp32" else (True,):
                file = f"{'packed' if pack else 'plain'}-{name}-{precision}"
                Onnx(precision).write(shipped, (IMAGES,), folder / f"{file}.onnx", pack=pack)
                np.save(folder / f"{file}.npy", IMAGES.numpy())
                if "attention" in file:
                    Onnx(precision, min_runtime=old).write(shipped, (IMAGES,), folder / f"old-{file}.onnx", pack=pack)
                    np.save(folder / f"old-{file}.npy", IMAGES.numpy())
                with torch.no_grad():
                    expected[file] = quantized(shipped, stored(shipped, precision))(IMAGES).numpy()
                if "attention" in file:
                    expected[f"old-{file}"] = expected[file]
    return Written(folder, expected)


def _command(consumer: str) -> list[str | Path]:
    """What runs every file of a folder in a reader."""
    if consumer.startswith("onnxruntime-web"):
        here = web.root() if consumer == "onnxruntime-web" else CONSUMERS / consumer / "node_modules"
        return ["node", Path(__file__).with_name("consumer.cjs"), here / "onnxruntime-web" / "dist"]
    python = sys.executable if consumer == "onnxruntime" else CONSUMERS / consumer / "bin" / "python"
    return [python, "-P", Path(__file__).with_name("consumer.py"), consumer.partition("-")[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("consumer", "pattern"),
    [
        pytest.param("onnxruntime-1.15", "*-convolutions-*", marks=pytest.mark.needs("onnxruntime 1.15")),
        pytest.param("onnxruntime-1.15", "old-*", marks=pytest.mark.needs("onnxruntime 1.15")),
        pytest.param("onnxruntime-1.17", "*", marks=pytest.mark.needs("onnxruntime 1.17")),
        pytest.param("onnxruntime-1.20", "*", marks=pytest.mark.needs("onnxruntime 1.20")),
        pytest.param("onnxruntime", "*"),
        pytest.param("onnxruntime-web-1.17", "*", marks=pytest.mark.needs("onnxruntime-web 1.17")),
        pytest.param("onnxruntime-web", "*", marks=pytest.mark.needs("node", "browser")),
        pytest.param("opencv", "plain-convolutions-*", marks=pytest.mark.needs("OpenCV")),
    ],
)
def test_files_load_and_are_right(written: Written, consumer: str, pattern: str, tmp_path: Path) -> None:
    names = [name for name in written.expected if Path(name).match(pattern)]
    for name in names:
        for suffix in (".onnx", ".npy"):
            shutil.copy(written.folder / f"{name}{suffix}", tmp_path)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([*_command(consumer), tmp_path], check=True, env=environment)
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.error")} == {}
    assert names
    for name in names:
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.out.npy"), written.expected[name], atol=2e-5, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "consumer",
    [
        pytest.param("onnxruntime-1.15", marks=pytest.mark.needs("onnxruntime 1.15")),
        pytest.param("onnxruntime-1.20", marks=pytest.mark.needs("onnxruntime 1.20")),
        "onnxruntime",
        pytest.param("onnxruntime-web-1.17", marks=pytest.mark.needs("onnxruntime-web 1.17")),
    ],
)
def test_files_that_compute_in_fp16_load_and_are_right(
    consumer: str, trained: Changed, masked: Changed, tmp_path: Path
) -> None:
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, (IMAGES,))
    for name, precision, pack in (("plain", "fp16", False), ("packed", "fp16", True), ("int8", "int8", True)):
        Onnx(precision).computing("fp16").write(shipped, (IMAGES,), tmp_path / f"{name}.onnx", pack=pack)
        np.save(tmp_path / f"{name}.npy", IMAGES.numpy())
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([*_command(consumer), tmp_path], check=True, env=environment)
    assert {path.stem: path.read_text() for path in tmp_path.glob("*.error")} == {}
    with torch.no_grad():
        expected = {
            name: quantized(shipped, stored(shipped, precision))(IMAGES).numpy()
            for name, precision in (("plain", "fp16"), ("packed", "fp16"), ("int8", "int8"))
        }
    for name, right in expected.items():
        assert np.abs(np.load(tmp_path / f"{name}.out.npy") - right).max() < 2e-3 * np.abs(right).max(), name


@pytest.mark.slow
def test_the_reference_implementation_agrees(written: Written, tmp_path: Path, by_reference: Evaluate) -> None:
    for name, expected in written.expected.items():
        model = onnx.load(written.folder / f"{name}.onnx")
        newest = name.partition("-")[0] != "old" and "attention" in name  # the only ones with Gelu
        assert (model.ir_version, model.opset_import[0].version) == ((9, 20) if newest else (8, 18)), name
        model.graph.input[0].name, first = "x", model.graph.input[0].name
        for node in model.graph.node:
            node.input[:] = ["x" if given == first else given for given in node.input]
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_allclose(by_reference(model, IMAGES.numpy()), expected, atol=2e-5, err_msg=name)


def test_every_node_has_a_name_of_its_own(written: Written) -> None:
    for name in written.expected:
        nodes = [node.name for node in onnx.load(written.folder / f"{name}.onnx").graph.node]
        assert "" not in nodes
        assert len(set(nodes)) == len(nodes)


def test_a_plain_file_states_every_attribute(written: Written) -> None:
    for kind in ("plain", "packed"):
        model = onnx.load(written.folder / f"{kind}-convolutions-fp32.onnx")
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        stated = [{attribute.name for attribute in node.attribute} for node in convolutions]
        everything = {"kernel_shape", "strides", "pads", "dilations", "group"}
        assert all((everything <= names) == (kind == "plain") for names in stated)
