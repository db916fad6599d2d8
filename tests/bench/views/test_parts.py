"""Parts are read from files that the real exporters wrote, and checked against what is known to be in them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from torch import nn

from dwindle.bench.views.parts import Parts, parts
from dwindle.files import raw_bytes

WEIGHTS = 4 * (8 * 9 + 512 * 10)
BIASES = 4 * (8 + 10)


def total(found: Parts) -> int:
    return found.mask + found.values + found.graph + found.rest


def test_plain_onnx_is_weights_biases_and_a_graph(onnx_files: tuple[Path, Path]) -> None:
    found = parts("onnx", onnx_files[0])
    assert found is not None
    assert (found.mask, found.values) == (0, WEIGHTS)
    assert BIASES < found.rest < BIASES + 100  # names and types of tensors are in it
    assert 0 < found.graph < 600
    assert total(found) == onnx_files[0].stat().st_size


def test_packed_onnx_has_a_mask_and_fewer_values(onnx_files: tuple[Path, Path], tmp_path: Path) -> None:
    """As export packs: a call of the model's own function, which reads the mask's code and the survivors."""
    import numpy as np

    model = onnx.load(onnx_files[1])
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "3weight")
    dense = onnx.numpy_helper.to_array(weight)
    mask, survivors = np.packbits(dense != 0), dense[dense != 0]
    model.graph.initializer.remove(weight)
    named = (("m", mask), ("v", survivors), ("s", np.array(dense.shape)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in named)
    model.graph.node.insert(0, onnx.helper.make_node("Fill", ["m", "v", "s"], ["3weight"], domain="own"))
    onnx.save(model, tmp_path / "packed.onnx")
    found = parts("onnx", tmp_path / "packed.onnx")
    assert found is not None
    assert (found.mask, found.values) == (512 * 10 // 8, 4 * (8 * 9 + survivors.size))
    assert BIASES + 16 < found.rest < BIASES + 116
    assert total(found) == (tmp_path / "packed.onnx").stat().st_size


def test_codes_of_four_bits_are_values(tmp_path: Path) -> None:
    import torch

    from dwindle.export.fold import deployable
    from dwindle.export.onnx.target import Onnx

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(70, 80), torch.nn.Linear(80, 90)).requires_grad_(False)
    for layer in network:
        layer.weight *= torch.rand(layer.weight.shape) < 0.2
    survivors = [int(torch.count_nonzero(layer.weight)) for layer in network]
    example, path = (torch.zeros(1, 70),), tmp_path / "net.onnx"
    Onnx("palette4").write(deployable(network, example), example, path, pack=True)
    found = parts("onnx", path)
    assert found is not None
    assert found.values - (survivors[0] + survivors[1] / 2) < 80 + 340 + 400  # scales, biases in fp16, tables
    assert 0.7 / 8 * (70 * 80 + 80 * 90) < found.mask < (70 * 80 + 80 * 90) / 8


@pytest.mark.slow
def test_executorch_is_a_program_with_xnnpacks_graph_and_weights(pte_files: tuple[Path, Path]) -> None:
    found = parts("executorch", pte_files[0])
    assert found is not None
    assert found.mask == 0
    assert WEIGHTS + BIASES <= found.values < WEIGHTS + BIASES + 1024  # padding to lines
    assert 1000 < found.graph < 10_000
    assert total(found) == pte_files[0].stat().st_size


@pytest.mark.needs("litert")
def test_litert_has_rows_and_places_in_its_graph(nets: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    import torch

    from dwindle.export.fold import deployable
    from dwindle.export.litert.sparse import encode
    from dwindle.export.litert.target import LiteRT

    example, path = (torch.zeros(1, 1, 8, 8),), tmp_path / "net.tflite"
    for pack in (False, True):
        network = deployable(nets[1], example)
        LiteRT().write(network, example, path, pack=pack)
        found = parts("litert", path)
        assert found is not None
        # the linear layer alone is sparse; as the file has it, its 512 inputs in another order
        form = encode(network[3].weight.reshape(10, 8, 64).transpose(1, 2).reshape(10, 512).numpy())
        masks = form.segments.nbytes + form.indices.nbytes
        assert found.mask == (masks if pack else 0)
        assert found.values == (4 * 8 * 9 + form.values.nbytes if pack else WEIGHTS)
        assert BIASES <= found.rest < BIASES + 200
        assert 0 < found.graph < 4000
        assert total(found) == path.stat().st_size


@pytest.mark.parametrize("bits", [3, 9])
def test_coreml_has_masks_among_its_blobs(bits: int, tmp_path: Path) -> None:
    import struct

    def record(kind: int, size: int, start: int) -> bytes:
        return struct.pack("<IIQQ", 0xDEADBEEF, kind, size, start).ljust(64, b"\0")

    blobs = [(bits, 640), (1, 3000), (1, 20)]  # a mask, survivors, a bias: uint8 or uint1, and float16
    content = struct.pack("<II", len(blobs), 2).ljust(64, b"\0")
    for kind, size in blobs:
        content += record(kind, size, len(content) + 64) + bytes(size)
        content += bytes(-len(content) % 64)
    package = tmp_path / "net.mlpackage"
    weights = package / "Data/com.apple.CoreML/weights/weight.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(content)
    (weights.parents[1] / "model.mlmodel").write_bytes(bytes(777))
    (package / "Manifest.json").write_text("{}")
    found = parts("coreml", package)
    assert found is not None
    assert (found.mask, found.values, found.graph) == (640, 3020, 777)
    assert total(found) == raw_bytes(package)
    weights.write_bytes(content[:64] + bytes(64) + content[128:])
    assert parts("coreml", package) is None


@pytest.mark.parametrize("target", ["onnx", "executorch", "litert", "unheard-of"])
def test_what_is_not_understood_is_not_split(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x93not a model" * 9)
    assert parts(target, tmp_path / "file") is None
