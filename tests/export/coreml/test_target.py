"""Packages made here, read back by our reader, by coremltools' own, and compared with what coremltools packs."""

from __future__ import annotations

import copy
import shutil
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export.architecture import one_model
from dwindle.export.coreml.read import MODEL, WEIGHTS, main_block, operations, weights
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable, tensors
from dwindle.files import raw_bytes, sha256, walk
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path
    dense: Path
    packed_bytes: Callable[[nn.Module], int]
    printed: str


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("coreml")
    network = masked(trained(resnet8(in_channels=1)), 0.1)
    shipped = deployable(network, example)
    net, dense = folder / "net.mlpackage", folder / "dense.mlpackage"
    with captured_output(folder / "printed"), one_model():
        assert CoreML().write(shipped, example, net, pack=True) == "bitmask + fp16 survivors"
        assert CoreML().write(shipped, example, dense, pack=False) == "dense fp16"
        packed_bytes = CoreML().packer(trained(resnet8(in_channels=1), seed=5), example)
    return Written(network, shipped, net, dense, packed_bytes, (folder / "printed").read_text())


def halves(shipped: nn.Module) -> dict[str, np.ndarray]:
    return {name: (tensor.half() + 0).numpy() for name, tensor in tensors(shipped).items() if tensor.dim()}


@pytest.mark.parametrize("which", ["net", "dense"])
def test_every_tensor_is_in_the_file_bit_for_bit(written: Written, which: str) -> None:
    decoded = CoreML().decode(getattr(written, which), written.shipped)
    expected = halves(written.shipped)
    assert decoded.keys() == expected.keys()
    for name, half in expected.items():
        assert decoded[name].dtype == np.float16
        assert decoded[name].shape == half.shape
        assert decoded[name].tobytes() == half.tobytes()


def test_sparse_is_smaller_and_dense_is_not(written: Written) -> None:
    survivors = sum(int((tensor != 0).sum()) for tensor in tensors(written.shipped).values())
    assert raw_bytes(written.dense) > 2 * 77_000
    assert raw_bytes(written.net) < 2 * survivors + 77_000 / 8 + 13_000


@pytest.mark.usefixtures("one_model")
def test_the_packer_says_what_write_would_write(
    written: Written, trained: Changed, masked: Changed, example: Inputs, tmp_path: Path
) -> None:
    assert written.packed_bytes(written.network) == raw_bytes(written.net)
    for density in (1.0, 0.0):
        candidate = masked(trained(resnet8(in_channels=1), seed=2), density)
        path = tmp_path / f"{density}.mlpackage"
        CoreML().write(deployable(candidate, example), example, path, pack=True)
        assert written.packed_bytes(candidate) == raw_bytes(path)


def test_nothing_is_printed_and_nothing_but_the_model_is_in_the_package(written: Written) -> None:
    assert written.printed == ""
    names = [file.relative_to(written.net).as_posix() for file in walk(written.net)]
    assert names == [MODEL, WEIGHTS, "Manifest.json"]


@pytest.mark.slow
def test_the_same_network_makes_the_same_bytes(written: Written, example: Inputs, tmp_path: Path) -> None:
    CoreML().write(written.shipped, example, tmp_path / "net.mlpackage", pack=True)
    assert sha256(tmp_path / "net.mlpackage") == sha256(written.net)


@pytest.mark.slow
def test_the_bytes_are_those_of_coremltools_own_compression(written: Written, example: Inputs, tmp_path: Path) -> None:
    """The same masks through its `_COREML_` buffers. It drops survivors up to 2⁻¹⁰: here there are none."""
    import coremltools

    shipped = copy.deepcopy(written.shipped)
    ours, theirs = tmp_path / "ours.mlpackage", tmp_path / "theirs.mlpackage"
    for tensor in tensors(shipped).values():
        tensor[tensor.abs() < 1e-3] = 0
    CoreML().write(shipped, example, ours, pack=True)
    shipped.register_buffer("_COREML_/metadata_version", torch.tensor(1))
    for module in shipped.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_buffer("_COREML_/weight/compression_type", torch.tensor([1]))
    coremltools.convert(
        torch.export.export(shipped, example).run_decompositions({}),
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
    ).save(str(theirs))

    assert raw_bytes(ours) < raw_bytes(theirs)
    packed, reference = sparse_operations(ours), sparse_operations(theirs)
    assert len(packed) >= 9
    assert packed <= reference
    halves = [
        sorted((array.shape, array.tobytes()) for array in weights(package).values() if array.dtype == np.float16)
        for package in (ours, theirs)
    ]
    assert halves[0] == halves[1]


def sparse_operations(package: Path) -> set[tuple[bytes, ...]]:
    """Each sparse constant as it is serialized, and the records and data it leads to, offsets and names aside."""
    from coremltools.proto.Model_pb2 import Model

    model, blobs = Model(), (package / WEIGHTS).read_bytes()
    model.ParseFromString((package / MODEL).read_bytes())
    found = set()
    for operation in operations(main_block(model)):
        if operation.type != "constexpr_sparse_to_dense":
            continue
        parts = []
        for key in ("nonzero_data", "mask"):
            file_value = operation.attributes[key].blobFileValue
            record = blobs[file_value.offset : file_value.offset + 64]
            size, start = struct.unpack_from("<QQ", record, 8)
            parts += [record[:16], record[24:], blobs[start : start + size]]
            file_value.offset = 0
        del operation.attributes["name"]
        operation.outputs[0].name = ""
        found.add((*parts, operation.SerializeToString(deterministic=True)))
    return found


def test_coremltools_reads_the_package_back(written: Written) -> None:
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = coremltools.models.MLModel(str(written.net), skip_model_load=True).get_spec()
    program = load(spec, spec.specificationVersion, str((written.net / WEIGHTS).parent))
    sources = [step.weight.op for step in program.functions["main"].operations if step.op_type == "conv"]
    convolutions = [
        source.val.val if source.op_type == "const" else source.materialized_val_inference() for source in sources
    ]
    assert len(convolutions) == 9
    expected = [half for name, half in halves(written.shipped).items() if half.ndim == 4]
    assert sorted(map(np.ndarray.tobytes, convolutions)) == sorted(map(np.ndarray.tobytes, expected))


def test_a_damaged_package_is_refused(written: Written, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mlpackage"
    shutil.copytree(written.net, damaged)
    content = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).write_bytes(content[:-500])
    with pytest.raises(ValueError, match=r"damaged.mlpackage cannot be read \(its weight file has no tensor"):
        weights(damaged)
    (damaged / WEIGHTS).write_bytes(content)
    (damaged / MODEL).write_bytes((damaged / MODEL).read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"damaged.mlpackage cannot be read"):
        weights(damaged)


def test_the_file_computes_what_the_network_does(written: Written, samples: Inputs) -> None:
    (outputs,) = CoreML().run(written.net, samples)
    np.testing.assert_allclose(outputs, written.shipped(*samples).numpy(), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_a_weight_beyond_fp16_is_refused(network: nn.Module, example: Inputs, tmp_path: Path) -> None:
    shipped = deployable(network, example)
    shipped.classifier.bias.data[0] = 1e5
    with pytest.raises(UsageError) as refused:
        CoreML().write(shipped, example, tmp_path / "net.mlpackage", pack=True)
    assert (refused.value.code, refused.value.name) == ("out-of-range", "classifier.bias")
    assert not (tmp_path / "net.mlpackage").exists()


class Small(nn.Module):
    """Tensors below and at the size that lies in the program itself, one of them dead, and a negative underflow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 40, bias=False), nn.Linear(40, 40))
        with torch.no_grad():
            self.layers[2].weight.zero_()
            self.layers[3].weight[0, 0] = -1e-12

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_small_dead_and_vanishing_tensors(tmp_path: Path) -> None:
    inputs = (torch.ones(1, 3),)
    shipped = deployable(Small(), inputs)
    for pack in (True, False):
        path = tmp_path / f"{pack}.mlpackage"
        CoreML().write(shipped, inputs, path, pack=pack)
        decoded, expected = CoreML().decode(path, shipped), halves(shipped)
        assert decoded.keys() == expected.keys()
        assert all(decoded[name].tobytes() == half.tobytes() for name, half in expected.items())
    assert CoreML().packer(shipped, inputs)(shipped) == raw_bytes(tmp_path / "True.mlpackage")


class Scaled(nn.Module):
    """coremltools folds the scale into the convolution: a constant that is no tensor of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 64, 3)
        with torch.no_grad():
            self.conv.weight *= torch.rand(self.conv.weight.shape) < 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * 0.5


@pytest.mark.slow
def test_a_weight_that_coremltools_changes_is_packed_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.ones(1, 4, 8, 8),)
    network = Scaled()
    shipped = deployable(network, inputs)
    path = tmp_path / "net.mlpackage"
    CoreML().write(shipped, inputs, path, pack=True)
    found = [array for array in weights(path).values() if array.shape == (64, 4, 3, 3)]
    np.testing.assert_allclose(found[0], 0.5 * network.conv.weight.detach().numpy(), rtol=1e-2, atol=1e-7)
    assert raw_bytes(path) < 4000
    assert "conv.weight" not in CoreML().decode(path, shipped)
    packed_bytes = CoreML().packer(network, inputs)
    assert packed_bytes(network) == raw_bytes(path)
    with torch.no_grad():
        network.conv.weight.zero_()
    assert packed_bytes(network) < raw_bytes(path) - 300
