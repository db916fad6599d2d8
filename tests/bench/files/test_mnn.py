"""MNN's files, as its own converter and dwindle write them: each byte counted, in the file and beside it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.bench.files.contents import MASK, TABLE, VALUES, Contents, contents
from dwindle.errors import DwindleError
from dwindle.export.fold import deployable
from dwindle.export.mnn.target import MNN

Pair = tuple[Path, Path]
Nets = tuple[nn.Sequential, nn.Sequential]
EXAMPLE = (torch.zeros(1, 1, 8, 8),)
CONVOLUTION, LINEAR = 8 * 9, 5120
CONVERT = """
import sys, _tools
source, result, *options = sys.argv[1:]
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", result, "--bizCode", "", *options])
"""

pytestmark = pytest.mark.needs("mnn")


def converted(origin: Path, to: Path, *options: str) -> Path:
    command = [sys.executable, "-c", CONVERT, str(origin), str(to), *options]
    subprocess.run(command, check=True, capture_output=True, cwd=to.parent)
    return to


def bytes_of(found: Contents, kind: str) -> int:
    return sum(part.bytes for part in found.parts if part.kind == kind)


def whole(path: Path) -> Contents:
    found = contents(path)
    assert found.bytes == sum(file.stat().st_size for file in (path, *(path.parent / name for name in found.beside)))
    return found


@pytest.fixture(scope="module")
def plain(onnx_files: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pruned network by MNN's converter: its zeros as they are."""
    return converted(onnx_files[1], tmp_path_factory.mktemp("mnn") / "net.mnn")


def test_as_the_converter_writes_it(plain: Path, nets: Nets) -> None:
    found = whole(plain)
    assert (found.format, found.beside, found.undelegated) == ("MNN", (), None)
    assert found.weights == {"float32": 4 * (CONVOLUTION + LINEAR)}
    assert sum(part.zeros for part in found.parts) == sum(int((one == 0).sum()) for one in nets[1].parameters())
    assert found.operators["Convolution"] + found.operators.get("ConvolutionDepthwise", 0) == 2
    assert "Input" not in found.operators
    ((given,), (made,)) = found.inputs, found.outputs
    assert (given.name, given.dtype, given.shape[1:], made.name) == ("x", "float32", (1, 8, 8), "y")


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        (["--fp16"], {"float16": 2 * (CONVOLUTION + LINEAR)}),
        (["--weightQuantBits", "8"], {"uint8": CONVOLUTION + LINEAR}),
        (["--weightQuantBits", "4"], {"uint4": (CONVOLUTION + LINEAR) // 2}),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_other_precisions(onnx_files: Pair, tmp_path: Path, options: list[str], weights: dict[str, int]) -> None:
    found = whole(converted(onnx_files[0], tmp_path / "net.mnn", *options))
    assert found.weights == weights
    assert (bytes_of(found, TABLE) > 0) == (options[0] != "--fp16")


@pytest.mark.parametrize("options", [[], ["--weightQuantBits", "8"]], ids=["fp32", "int8"])
def test_with_its_weights_beside_it(onnx_files: Pair, tmp_path: Path, options: list[str]) -> None:
    path = converted(onnx_files[0], tmp_path / "net.mnn", "--saveExternalData", "1", *options)
    found = whole(path)
    assert found.beside == ("net.mnn.weight",)
    assert found.weights == ({"uint8": CONVOLUTION + LINEAR} if options else {"float32": 4 * (CONVOLUTION + LINEAR)})
    (tmp_path / "net.mnn.weight").unlink()
    with pytest.raises(DwindleError) as refused:
        contents(path)
    assert (refused.value.code, refused.value.path) == ("missing", tmp_path / "net.mnn.weight")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_packed_zeros_have_masks(nets: Nets, tmp_path: Path, precision: str) -> None:
    target, path = MNN(precision), tmp_path / "net.mnn"
    target.write(deployable(nets[1], EXAMPLE), EXAMPLE, path, pack=True)
    found, known = whole(path), target.breakdown(path)
    assert known
    assert bytes_of(found, MASK) == known.mask > 0
    assert 0 < bytes_of(found, VALUES) <= known.values  # which counts scales and tables of codes as values


@pytest.mark.slow
def test_damage_is_one_sentence(plain: Path, tmp_path: Path) -> None:
    content, chance, sentences = plain.read_bytes(), random.Random(0), []
    path = tmp_path / "damaged.mnn"
    for attempt in range(150):
        damaged = bytearray(content[: chance.randrange(len(content))] if attempt < 50 else content)
        for _ in range(0 if attempt < 50 else 1 + attempt % 8):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert contents(path).bytes == len(damaged)
        except DwindleError as error:
            sentences.append(str(error))
    assert len(sentences) > 20
    assert not any("\n" in sentence for sentence in sentences)
