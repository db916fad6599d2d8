"""Packages of four bits a weight and fewer, read back by us and by coremltools, and compared with what it packs."""

from __future__ import annotations

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
from dwindle.export.coreml.package import package
from dwindle.export.coreml.read import MODEL, WEIGHTS, constants
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.quantize import FEW_BITS, FOUR_BITS, SCALES, Stored, quantized, store, stored
from dwindle.files import raw_bytes

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]
Weights = Callable[[Path], list[np.ndarray]]
Operations = Callable[[Path], list[tuple[bytes, ...]]]

INPUTS = (torch.ones(1, 3, 8, 8),)
FORMS = {
    ("palette4", "iOS18", True): {"bitmask + palette4 survivors", "dense palette4", "dense int8"},
    ("palette4", "iOS17", True): {"dense palette4", "dense int8"},
    ("palette4", "iOS16", True): {"dense palette4", "dense int8"},
    ("palette4", "iOS18", False): {"dense palette4", "dense int8"},
    ("palette3", "iOS18", True): {"bitmask + palette3 survivors", "dense palette3", "dense int8"},
    ("palette2", "iOS18", True): {"bitmask + palette2 survivors", "dense palette2", "dense int8"},
    ("palette2", "iOS18", False): {"dense palette2", "dense int8"},
    ("palette1", "iOS18", True): {"bitmask + palette1 survivors", "dense palette1", "dense int8"},
    ("int4", "iOS18", True): {"bitmask + int4 survivors", "dense int4", "dense int8"},
    ("int4", "iOS16", True): {"bitmask + fp16 survivors", "dense int8"},
    ("int4", "iOS18", False): {"dense int4", "dense int8"},
}


class Small(nn.Module):
    """A first layer, a sparse convolution, a dense layer, one whose rows have scales of their own, one too short."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 31, 3), nn.Conv2d(31, 65, 3)
        self.layers = nn.Sequential(nn.Linear(65, 128), nn.Linear(128, 91), nn.Linear(91, 30), nn.Linear(30, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.conv(self.first(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def shipped() -> nn.Module:
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        for layer in (network.conv, network.layers[1]):
            threshold = layer.weight.abs().flatten().kthvalue(round(0.8 * layer.weight.numel())).values
            layer.weight *= layer.weight.abs() > threshold
        network.layers[1].weight *= torch.logspace(-2, 2, 91)[:, None]
    return deployable(network, INPUTS)


def half(held: Stored) -> np.ndarray:
    return held.decoded().astype(np.float16) + np.float16(0)


class Written(NamedTuple):
    path: Path
    words: str
    packed_bytes: int


@pytest.fixture(scope="module")
def written(shipped: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], Written]:
    """The network in each form, converted once for each system; what is packed and how is no part of that."""
    made = {}
    with one_model():
        for precision, min_os, pack in FORMS:
            target, path = CoreML(precision, min_os), tmp_path_factory.mktemp(precision) / "net.mlpackage"
            words = target.write(shipped, INPUTS, path, pack=pack)
            made[precision, min_os, pack] = Written(path, words, target.packer(shipped, INPUTS)(shipped))
    return made


@pytest.mark.parametrize(("precision", "min_os", "pack"), FORMS)
def test_every_weight_is_in_the_file_bit_for_bit(
    coremltools_weights: Weights,
    shipped: nn.Module,
    written: dict[tuple[str, str, bool], Written],
    precision: str,
    min_os: str,
    pack: bool,
) -> None:
    target, (path, words, packed_bytes) = CoreML(precision, min_os), written[precision, min_os, pack]
    assert FORMS[precision, min_os, pack] <= set(words.split(" and "))
    held = stored(shipped, precision)
    decoded, expected = target.decode(path, shipped), {name: half(tensor) for name, tensor in held.items()}
    assert decoded.keys() == expected.keys()
    assert all(decoded[name].tobytes() == array.tobytes() for name, array in expected.items())
    if pack:
        assert packed_bytes == raw_bytes(path)
    theirs = coremltools_weights(path)
    assert len(theirs) == 6
    for array in theirs:
        assert (array + np.float16(0)).tobytes() in {own.tobytes() for own in expected.values()}
    x = torch.randn(INPUTS[0].shape, generator=torch.Generator().manual_seed(0))
    (found,) = target.run(path, (x,))
    with torch.no_grad():
        np.testing.assert_allclose(found, quantized(shipped, held)(x).numpy(), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "min_os", "kinds"),
    [
        ("palette4", "iOS18", [1, 2]),
        ("palette4", "iOS18", [2]),
        ("palette4", "iOS16", [2]),
        ("scaled palette4", "iOS18", [1, 2]),
        ("scaled palette4", "iOS18", [2]),
        ("palette3", "iOS18", [1, 2]),
        ("palette3", "iOS18", [2]),
        ("palette2", "iOS18", [1, 2]),
        ("palette2", "iOS18", [2]),
        ("palette1", "iOS18", [1, 2]),
        ("palette1", "iOS18", [2]),
        ("int4", "iOS18", [1, 3]),
        ("int4", "iOS18", [3]),
    ],
)
def test_the_bytes_are_those_of_coremltools_own(
    packed_operations: Operations, tmp_path: Path, precision: str, min_os: str, kinds: list[int]
) -> None:
    """The same codes through its `_COREML_` buffers. It drops survivors up to 2⁻¹⁰: here there are none."""
    import coremltools

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 320), nn.Linear(320, 53)).requires_grad_(False)
    weight = network[1].weight
    weight *= 100
    if 1 in kinds:
        weight *= torch.rand(weight.shape) < 0.5
    if precision.startswith("scaled"):
        precision = precision.removeprefix("scaled ")
        weight *= torch.logspace(-1, 2, 53)[:, None]
    inputs = (torch.ones(1, 4),)
    ours, theirs = tmp_path / "ours.mlpackage", tmp_path / "theirs.mlpackage"
    CoreML(precision, min_os).write(network, inputs, ours, pack=1 in kinds)
    held = stored(network, precision)["1.weight"]
    weight.copy_(torch.from_numpy(held.decoded()))
    network.register_buffer("_COREML_/metadata_version", torch.tensor(1))
    network[1].register_buffer("_COREML_/weight/compression_type", torch.tensor(kinds))
    each_row = held.palette is not None and held.scale is not None and 1 not in kinds
    if held.palette is not None:
        palette = held.palette if held.bits == 4 else held.palette[1:]  # without zero
        table = palette * SCALES[held.scale] if each_row else palette[None]
        table = torch.from_numpy(table.astype(np.float32))[:, None, :, None]
        network[1].register_buffer("_COREML_/weight/lut", table)
    if held.scale is not None and not each_row:
        name = "quantization" if held.palette is None else "palettization"
        scale = torch.from_numpy(SCALES[held.scale].astype(np.float32))
        network[1].register_buffer(f"_COREML_/weight/{name}_scale", scale)
        network[1].register_buffer("_COREML_/weight/quantization_n_bits", torch.tensor(4))
        assert precision.startswith("palette") or scale.shape[1] > 1
    coremltools.convert(
        torch.export.export(network, inputs).run_decompositions({}),
        minimum_deployment_target=coremltools.target[min_os],
        skip_model_load=True,
    ).save(str(theirs))
    mine = packed_operations(ours)
    assert len(mine) == len(kinds) + (held.palette is not None and held.scale is not None and not each_row)
    assert mine == packed_operations(theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("one_model")
@pytest.mark.parametrize("precision", FOUR_BITS)
def test_sparse_four_bits_are_smaller_than_eight(
    network: nn.Module, masked: Changed, example: Inputs, tmp_path: Path, precision: str
) -> None:
    shipped = deployable(masked(network, 0.1), example)
    sizes = {}
    for bits in ("int8", precision):
        CoreML(bits).write(shipped, example, tmp_path / bits, pack=True)
        sizes[bits] = raw_bytes(tmp_path / bits)
    survivors = sum(np.count_nonzero(tensor.values) for tensor in stored(shipped, precision).values() if tensor.kind)
    assert sizes["int8"] - sizes[precision] > 0.3 * survivors  # half a byte each, less what decodes them


@pytest.mark.parametrize("precision", FOUR_BITS)
def test_what_a_system_lacks_is_said(precision: str) -> None:
    for system in ("iOS16", "iOS17"):
        note = targets.load("coreml", precision, system).note
        assert str(note).startswith(f"{system} has no sparse form of {precision}: ")
    assert targets.load("coreml", precision).note is None


@pytest.mark.parametrize("precision", ["palette3", "palette2", "palette1"])
def test_few_bits_that_a_system_lacks_are_refused_with_what_it_has(precision: str) -> None:
    with pytest.raises(UsageError) as refused:
        targets.load("coreml", precision, "iOS17")
    assert (refused.value.option, refused.value.code, refused.value.name) == ("min_os", "system-too-old", "iOS17")
    assert "palette4" in str(refused.value)


def test_a_package_whose_parts_do_not_belong_together_is_refused() -> None:
    from coremltools.proto.Model_pb2 import Model

    generator = np.random.default_rng(0)
    array = generator.standard_normal((90, 64), np.float32) * (generator.random((90, 64)) < 0.2)
    for precision, message in (("palette4", "the mask keeps"), ("int4", "the mask keeps")):
        held = store("w", array, precision)
        files, _ = package(_program(9), {"w": half(held)}, {"w": held}, pack=True)
        content = bytearray(files[WEIGHTS])
        mask = next(at for at in range(64, len(content), 64) if content[at : at + 8] == b"\xef\xbe\xad\xde\x09\0\0\0")
        content[mask + 64] ^= 0xFF
        with pytest.raises(ValueError, match=message):
            constants(Model.FromString(files[MODEL]), bytes(content))


@settings(max_examples=25)
@given(
    shape=st.sampled_from([(1, 64), (7, 65), (5, 32, 3, 3), (3, 11, 7)]),
    density=st.sampled_from([0, 0.01, 0.2, 0.7, 1]),
    precision=st.sampled_from(FEW_BITS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_codes_come_back(shape: tuple[int, ...], density: float, precision: str, seed: int) -> None:
    from coremltools.proto.Model_pb2 import Model

    generator = np.random.default_rng(seed)
    array = generator.standard_normal(shape, np.float32) * (generator.random(shape) < density)
    array *= 2.0 ** generator.uniform(-8, 8, (shape[0], *[1] * (len(shape) - 1))).astype(np.float32)
    array[generator.random(shape[0]) < 0.2] = 0
    held = store("w", array, precision)
    assert held.bits == int(precision[-1])
    for version in (7, 9):
        for pack in (True, False):
            files, _ = package(_program(version), {"w": half(held)}, {"w": held}, pack=pack)
            read = Model.FromString(files[MODEL])
            assert constants(read, files[WEIGHTS])["w"].tobytes() == half(held).tobytes()


def _program(version: int) -> object:
    """With one constant, w."""
    from coremltools.proto.Model_pb2 import Model

    model = Model(specificationVersion=version)
    function = model.mlProgram.functions["main"]
    function.opset = "CoreML"
    function.block_specializations["CoreML"].operations.add(type="const").outputs.add(name="w")
    return model
