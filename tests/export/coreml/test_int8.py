"""int8 packages, read back by our reader and by coremltools' own, and compared with what coremltools packs."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.architecture import one_model
from dwindle.export.coreml.read import MODEL, WEIGHTS, weights
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.quantize import SCALES, Stored, stored
from dwindle.files import raw_bytes

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
Weights = Callable[[Path], list[np.ndarray]]
Operations = Callable[[Path], list[tuple[bytes, ...]]]


class Small(nn.Module):
    """A convolution, linear layers whose masks fill no whole byte, a dead one, one too narrow for a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 75, 3)
        self.layers = nn.Sequential(nn.Linear(75, 121), nn.Linear(121, 91), nn.Linear(91, 130), nn.Linear(130, 3))
        with torch.no_grad():
            self.layers[1].weight.zero_()
            self.layers[2].weight *= 300

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.conv(x).mean((2, 3)))


INPUTS = (torch.ones(1, 3, 8, 8),)
FORMS = {
    ("iOS18", True): "dense int8 and bitmask + int8 survivors",
    ("iOS18", False): "dense int8",
    ("iOS17", True): "dense int8 and bitmask + fp16 survivors",
    ("iOS16", True): "dense int8 and bitmask + fp16 survivors",
    ("iOS16", False): "dense int8",
}


@pytest.fixture(scope="module")
def shipped(masked: Changed) -> nn.Module:
    torch.manual_seed(0)
    network = masked(Small(), 0.2)
    with torch.no_grad():
        network.layers[2].weight += 10  # a dense one among sparse ones
    return deployable(network, INPUTS)


def halves(held: dict[str, Stored]) -> dict[str, np.ndarray]:
    return {name: tensor.decoded().astype(np.float16) + np.float16(0) for name, tensor in held.items()}


class Written(NamedTuple):
    path: Path
    words: str
    packed_bytes: int


@pytest.fixture(scope="module")
def written(shipped: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Written]:
    """The network in each form, converted once for each system; what is packed and how is no part of that."""
    made = {}
    with one_model():
        for min_os, pack in FORMS:
            target, path = CoreML("int8", min_os), tmp_path_factory.mktemp(min_os) / "net.mlpackage"
            words = target.write(shipped, INPUTS, path, pack=pack)
            made[min_os, pack] = Written(path, words, target.packer(shipped, INPUTS)(shipped))
    return made


@pytest.mark.parametrize(("min_os", "pack"), FORMS)
def test_every_weight_is_in_the_file_bit_for_bit(
    coremltools_weights: Weights, shipped: nn.Module, written: dict[tuple[str, bool], Written], min_os: str, pack: bool
) -> None:
    target, (path, words, packed_bytes) = CoreML("int8", min_os), written[min_os, pack]
    assert words.startswith(FORMS[min_os, pack])
    decoded, expected = target.decode(path, shipped), halves(stored(shipped, "int8"))
    assert decoded.keys() == expected.keys()
    assert all(decoded[name].tobytes() == half.tobytes() for name, half in expected.items())
    if pack:
        assert packed_bytes == raw_bytes(path)
    theirs = coremltools_weights(path)
    assert len(theirs) == 5
    for array in theirs:
        assert array.tobytes() in {half.tobytes() for half in expected.values()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("min_os", "kinds"),
    [
        ("iOS18", [1, 3]),
        ("iOS18", [3]),
        ("iOS16", [3]),
    ],
)
def test_the_bytes_are_those_of_coremltools_own(
    packed_operations: Operations, tmp_path: Path, min_os: str, kinds: list[int]
) -> None:
    """The same codes and scales through its `_COREML_` buffers. It drops survivors up to 2⁻¹⁰: here there are none."""
    import coremltools

    torch.manual_seed(0)
    layer = nn.Linear(141, 53).requires_grad_(False)
    layer.weight *= 100
    if kinds == [1, 3]:
        layer.weight *= torch.rand(layer.weight.shape) < 0.2
    inputs = (torch.ones(1, 141),)
    ours, theirs = tmp_path / "ours.mlpackage", tmp_path / "theirs.mlpackage"
    CoreML("int8", min_os).write(layer, inputs, ours, pack=kinds == [1, 3])
    held = stored(layer, "int8")["weight"]
    layer.weight.copy_(torch.from_numpy(held.decoded()))
    layer.register_buffer("_COREML_/metadata_version", torch.tensor(1))
    layer.register_buffer("_COREML_/weight/quantization_scale", torch.from_numpy(SCALES[held.scale].astype(np.float32)))
    layer.register_buffer("_COREML_/weight/quantization_n_bits", torch.tensor(8))
    layer.register_buffer("_COREML_/weight/compression_type", torch.tensor(kinds))
    coremltools.convert(
        torch.export.export(layer, inputs).run_decompositions({}),
        minimum_deployment_target=coremltools.target[min_os],
        skip_model_load=True,
    ).save(str(theirs))
    mine = packed_operations(ours)
    assert mine
    assert mine == packed_operations(theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
def test_sparse_int8_is_smaller(network: nn.Module, masked: Changed, example: Inputs, tmp_path: Path) -> None:
    shipped = deployable(masked(network, 0.1), example)
    sizes = {}
    for precision in ("fp16", "int8"):
        CoreML(precision, "iOS18").write(shipped, example, tmp_path / precision, pack=True)
        sizes[precision] = raw_bytes(tmp_path / precision)
    survivors = sum(np.count_nonzero(tensor.values) for tensor in stored(shipped, "int8").values())
    assert sizes["fp16"] - sizes["int8"] > 0.6 * survivors  # a byte each, less the scales and their records


def test_what_a_system_lacks_is_said() -> None:
    assert "iOS16 has no sparse form of int8" in str(targets.load("coreml", "int8", "iOS16").note)
    for target in (targets.load("coreml", "int8"), targets.load("coreml", "fp16", "iOS16")):
        assert target.note is None
    with pytest.raises(UsageError) as refused:
        targets.load("coreml", "fp16", "iOS15")
    assert (refused.value.code, refused.value.option, refused.value.name) == ("unknown-system", "min_os", "coreml")
    assert targets.load("onnx", "int8", "iOS15").precision == "int8"  # one for another target of the same command


def test_a_damaged_package_is_refused(written: dict[tuple[str, bool], Written], tmp_path: Path) -> None:
    shutil.copytree(written["iOS18", True].path, tmp_path / "net.mlpackage")
    file = tmp_path / "net.mlpackage" / WEIGHTS
    content = bytearray(file.read_bytes())
    mask = next(at for at in range(64, len(content), 64) if content[at : at + 8] == struct.pack("<II", 0xDEADBEEF, 9))
    content[mask + 64] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read \(the mask keeps \d+ weights, there are \d+"):
        weights(tmp_path / "net.mlpackage")


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(8, 30)),
    density=st.sampled_from([0, 0.02, 0.2, 0.7, 1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_codes_come_back(shape: tuple[int, int], density: float, seed: int) -> None:
    from coremltools.proto.Model_pb2 import Model

    from dwindle.export.coreml.package import package
    from dwindle.export.coreml.read import constants
    from dwindle.export.quantize import store

    generator = np.random.default_rng(seed)
    array = generator.standard_normal(shape, np.float32) * (generator.random(shape) < density)
    held = store("w", array, "int8")
    half = held.decoded().astype(np.float16) + np.float16(0)
    for version in (7, 9):
        model = Model(specificationVersion=version)
        function = model.mlProgram.functions["main"]
        function.opset = "CoreML"
        function.block_specializations["CoreML"].operations.add(type="const").outputs.add(name="w")
        for pack in (True, False):
            files, _ = package(model, {"w": half}, {"w": held}, pack=pack)
            read = Model.FromString(files[MODEL])
            assert constants(read, files[WEIGHTS])["w"].tobytes() == half.tobytes()
