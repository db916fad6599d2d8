"""Model files as the formats' own writers write them: each byte counted, each weight known, or one sentence."""

from __future__ import annotations

import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dwindle.bench.files.contents import CONSTANT, MASK, TABLE, VALUES, Contents, contents
from dwindle.errors import DwindleError, UsageError
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.litert.target import LiteRT
from dwindle.export.onnx.target import Onnx
from dwindle.files import raw_bytes

Pair = tuple[Path, Path]
EXAMPLE = (torch.zeros(1, 1, 8, 8),)


def bytes_of(found: Contents, kind: str) -> int:
    return sum(part.bytes for part in found.parts if part.kind == kind)


def zeros_of(network: nn.Sequential) -> int:
    return sum(int((one == 0).sum()) for one in network.parameters() if one.dim() > 1)


def whole(path: Path) -> Contents:
    found = contents(path)
    assert found.bytes == raw_bytes(path)
    assert all(part.bytes > 0 for part in found.parts)
    return found


@pytest.fixture(scope="session")
def packages(nets: tuple[nn.Sequential, nn.Sequential], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The pruned network as coremltools has it: its zeros as they are, and packed."""
    folder = tmp_path_factory.mktemp("coreml")
    made = folder / "plain.mlpackage", folder / "packed.mlpackage"
    for path, pack in zip(made, (False, True), strict=True):
        CoreML("fp16").write(deployable(nets[1], EXAMPLE), EXAMPLE, path, pack=pack)
    return made


@pytest.fixture(scope="session")
def archive(nets: tuple[nn.Sequential, nn.Sequential], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(nets[1], EXAMPLE), path)
    return path


def test_onnx(onnx_files: Pair, nets: tuple[nn.Sequential, nn.Sequential]) -> None:
    found = whole(onnx_files[1])
    assert found.format == "ONNX"
    assert found.weights == {"float32": 4 * (8 * 9 + 5120)}
    assert sum(part.zeros for part in found.parts) == zeros_of(nets[1])
    assert found.packable == 4 * zeros_of(nets[1]) - 5120 // 8  # of the convolution, which has no zeros, nothing
    assert found.zeros == zeros_of(nets[1]) / (8 * 9 + 5120)
    assert dict(found.operators) == {"Conv": 1, "Relu": 1, "Flatten": 1, "Gemm": 1}
    assert found.undelegated is None
    ((given,), (made,)) = found.inputs, found.outputs
    assert (given.dtype, given.shape[1:], made.dtype, made.shape[1:]) == ("float32", (1, 8, 8), "float32", (10,))


@pytest.mark.slow
def test_onnx_with_packed_zeros_has_masks(nets: tuple[nn.Sequential, nn.Sequential], tmp_path: Path) -> None:
    target, path = Onnx("fp32"), tmp_path / "net.onnx"
    target.write(deployable(nets[1], EXAMPLE), EXAMPLE, path, pack=True)
    found, known = whole(path), target.breakdown(path)
    assert known
    assert bytes_of(found, MASK) == known.mask > 0
    assert bytes_of(found, VALUES) == known.values
    assert found.zeros < 0.01


def test_onnx_with_its_weights_beside_it(onnx_files: Pair, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.load(onnx_files[1]), path, save_as_external_data=True, location="net.data", size_threshold=0)
    found, inside = contents(path), whole(onnx_files[1])
    assert found.beside == ("net.data",)
    assert found.bytes == path.stat().st_size + (tmp_path / "net.data").stat().st_size
    assert (found.weights, found.zeros) == (inside.weights, inside.zeros)
    (tmp_path / "net.data").unlink()
    with pytest.raises(DwindleError) as refused:
        contents(path)
    assert (refused.value.code, refused.value.path) == ("missing", tmp_path / "net.data")


@pytest.mark.parametrize("location", ["../net.data", "/etc/passwd", "C:\\net.data", "a/../../net.data"])
def test_onnx_whose_weights_are_elsewhere_is_refused(onnx_files: Pair, tmp_path: Path, location: str) -> None:
    model = onnx.load(onnx_files[1])
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value=location)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DwindleError) as refused:
        contents(tmp_path / "net.onnx")
    assert refused.value.code == "outside"


def test_onnx_graphs_within_graphs_and_constants_in_nodes(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.array([[0, 2], [3, 0]], np.float32), "w")
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["w"], value=weight)],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("w", 1, [2, 2])],
    )
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    condition = onnx.helper.make_tensor_value_info("c", 9, ["n"])
    graph = onnx.helper.make_graph([node], "g", [condition], [onnx.helper.make_tensor_value_info("y", 1, None)])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "if.onnx")
    found = whole(tmp_path / "if.onnx")
    assert dict(found.operators) == {"If": 1, "Constant": 2}
    assert found.weights == {"float32": 32}
    assert sum(part.zeros for part in found.parts) == 4
    assert found.inputs[0].shape == ("n",)


@pytest.mark.slow
@pytest.mark.needs("litert")
def test_litert(tflite_files: Pair, nets: tuple[nn.Sequential, nn.Sequential]) -> None:
    dense, packed = map(whole, tflite_files)
    assert dense.format == "LiteRT"
    assert dense.weights == {"float32": 4 * (8 * 9 + 5120)}
    assert dense.zeros == 0
    assert dense.operators["DEPTHWISE_CONV_2D"] == dense.operators["FULLY_CONNECTED"] == 1
    assert [tensor.shape for tensor in (*dense.inputs, *dense.outputs)] == [(1, 1, 8, 8), (1, 10)]
    known = LiteRT("fp32").breakdown(tflite_files[1])
    assert known
    assert bytes_of(packed, MASK) == known.mask > 0
    assert packed.weights == {"float32": 4 * (8 * 9 + 5120 - zeros_of(nets[1]))}


@pytest.mark.slow
def test_executorch(pte_files: Pair, nets: tuple[nn.Sequential, nn.Sequential]) -> None:
    found = whole(pte_files[1])
    assert found.format == "ExecuTorch"
    assert found.weights == {"float32": 4 * (8 * 9 + 5120)}
    assert sum(part.zeros for part in found.parts) == zeros_of(nets[1])
    assert found.operators["XnnpackBackend"] >= 1
    assert found.undelegated is not None
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == [(1, 1, 8, 8), (1, 10)]


def test_executorch_without_a_delegate(tmp_path: Path) -> None:
    from executorch.exir import to_edge

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    nn.init.zeros_(net[1].weight)
    path = tmp_path / "net.pte"
    path.write_bytes(to_edge(torch.export.export(net, EXAMPLE)).to_executorch().buffer)
    found = whole(path)
    assert found.undelegated == found.operators
    assert found.operators["aten::addmm.out"] == 1
    assert found.weights == {"float32": 2560}
    assert found.zeros == 1.0


@pytest.mark.slow
def test_core_ml(packages: Pair, nets: tuple[nn.Sequential, nn.Sequential]) -> None:
    found = whole(packages[0])
    assert found.format == "Core ML"
    assert found.weights == {"float16": 2 * (8 * 9 + 5120)}
    assert sum(part.zeros for part in found.parts) == zeros_of(nets[1])
    assert found.operators["conv"] == found.operators["linear"] == 1
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == [(1, 1, 8, 8), (1, 10)]
    packed, known = whole(packages[1]), CoreML("fp16").breakdown(packages[1])
    assert known
    assert bytes_of(packed, MASK) == known.mask > 0


@pytest.mark.slow
def test_core_ml_without_its_weights(packages: Pair, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(packages[0], tmp_path / "net.mlpackage")
    next((tmp_path / "net.mlpackage").rglob("weight.bin")).unlink()
    with pytest.raises(DwindleError) as refused:
        contents(tmp_path / "net.mlpackage")
    assert refused.value.code == "missing"


def test_pytorch(archive: Path, nets: tuple[nn.Sequential, nn.Sequential]) -> None:
    found = whole(archive)
    assert found.format == "PyTorch"
    assert {part.name for part in found.parts if part.kind in (VALUES, CONSTANT)} == {
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    }
    assert sum(part.zeros for part in found.parts) == zeros_of(nets[1])
    assert found.operators["aten.linear.default"] == 1
    assert [tensor.shape for tensor in (*found.inputs, *found.outputs)] == [(1, 1, 8, 8), (1, 10)]


def test_scales_are_tables(tmp_path: Path) -> None:
    codes = onnx.numpy_helper.from_array(np.ones((4, 4), np.int8), "codes")
    scale = onnx.numpy_helper.from_array(np.float32(0.5), "scale")
    node = onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["y"])
    outputs = [onnx.helper.make_tensor_value_info("y", 1, [4, 4])]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], outputs, [codes, scale])), tmp_path / "q.onnx"
    )
    found = whole(tmp_path / "q.onnx")
    assert (bytes_of(found, TABLE), found.weights) == (4, {"int8": 16})


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".onnx", ".pte", ".pt2", ".mlpackage", pytest.param(".tflite", marks=pytest.mark.needs("litert"))]
)
def test_damage_is_one_sentence(suffix: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Files cut short, or with some bytes changed, are read as what they still are, or refused."""
    fixture = {".onnx": "onnx_files", ".pte": "pte_files", ".tflite": "tflite_files", ".mlpackage": "packages"}
    original: Path = (
        request.getfixturevalue("archive") if suffix == ".pt2" else request.getfixturevalue(fixture[suffix])[1]
    )
    source = next(original.rglob("*.mlmodel")) if original.is_dir() else original
    content, chance = source.read_bytes(), random.Random(0)
    path = tmp_path / f"damaged{'.mlmodel' if original.is_dir() else suffix}"
    sentences: list[str] = []
    for attempt in range(150):
        damaged = bytearray(content[: chance.randrange(len(content))] if attempt < 50 else content)
        for _ in range(0 if attempt < 50 else 1 + attempt % 8):
            at = chance.randrange(min(len(damaged), 2000)) if attempt % 2 else chance.randrange(len(damaged))
            damaged[at] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert contents(path).bytes == len(damaged)
        except DwindleError as error:
            sentences.append(str(error))
    assert len(sentences) > 20
    assert not any("\n" in sentence for sentence in sentences)


def test_an_archive_with_compressed_json_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/models/model.json", " " * 1000)
    with pytest.raises(DwindleError) as refused:
        contents(tmp_path / "bomb.pt2")
    assert refused.value.code == "damaged"


def test_what_is_no_model_file(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"")
    for name, code in (("net.bin", "unknown-format"), ("net.onnx", "missing")):
        with pytest.raises(UsageError) as refused:
            contents(tmp_path / name)
        assert refused.value.code == code


def test_no_package_of_a_format_is_imported(onnx_files: Pair) -> None:
    heavy = ("torch", "onnx", "onnxruntime", "flatbuffers", "coremltools", "executorch", "jinja2", "safetensors")
    program = (
        "import sys; from dwindle.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {heavy} if name in sys.modules]); sys.exit(code)"
    )
    arguments: list[str] = ["gate", str(onnx_files[1]), "--max-size", "1MB"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]")


def test_a_size_that_is_not_fixed_may_be_minus_one(tmp_path: Path) -> None:
    """Paddle's exporter writes it so."""
    sides = [onnx.helper.make_tensor_value_info(name, 1, [-1, 4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", sides[:1], sides[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "net.onnx")
    assert contents(tmp_path / "net.onnx").inputs[0].shape == (-1, 4)


def test_int8_by_onnxruntime(onnx_files: Pair, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(onnx_files[1], tmp_path / "int8.onnx", op_types_to_quantize=["Conv", "MatMul", "Gemm"])
    found = whole(tmp_path / "int8.onnx")
    assert bytes_of(found, TABLE) > 0
    assert sum(size for kind, size in found.weights.items() if kind != "float32") >= 5120
