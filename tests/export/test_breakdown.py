"""What a file's bytes are spent on, of files that the targets themselves wrote, against what is known to be in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import DwindleError
from dwindle.export import targets
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.target import Target
from dwindle.files import raw_bytes
from dwindle.manifest import Breakdown

Changed = Callable[..., nn.Module]
WEIGHTS = 4 * (8 * 9 + 512 * 10)
BIASES = 4 * (8 + 10)
EXAMPLE = (torch.zeros(1, 1, 8, 8),)


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


@pytest.fixture
def dense() -> nn.Module:
    return deployable(Net().eval(), EXAMPLE)


@pytest.fixture
def pruned(masked: Changed) -> nn.Module:
    return deployable(masked(Net(), 0.2).eval(), EXAMPLE)


def survivors(network: nn.Module) -> int:
    return sum(int(torch.count_nonzero(tensor)) for tensor in network.parameters() if tensor.dim() > 1)


def breakdown(
    target: Target, network: nn.Module, folder: Path, example: tuple[Tensor, ...] = EXAMPLE, *, pack: bool = True
) -> Breakdown:
    """That of a file of the network, whose parts add up to its bytes."""
    path = folder / f"net{target.suffix}"
    target.write(network, example, path, pack=pack)
    found = target.breakdown(path)
    assert found is not None
    assert min(found.mask, found.values, found.graph, found.rest) >= 0
    assert found.mask + found.values + found.graph + found.rest == raw_bytes(path)
    return found


def test_a_plain_onnx_file_is_weights_biases_and_a_graph(dense: nn.Module, tmp_path: Path) -> None:
    found = breakdown(Onnx(), dense, tmp_path)
    assert (found.mask, found.values) == (0, WEIGHTS)
    assert BIASES < found.rest < BIASES + 150  # the names and types of tensors are there
    assert 0 < found.graph < 600


def test_a_packed_onnx_file_has_a_mask_and_fewer_values(pruned: nn.Module, tmp_path: Path) -> None:
    found = breakdown(Onnx(), pruned, tmp_path)
    assert 0 <= found.values - 4 * survivors(pruned) < BIASES + 4 * 8 * 9  # the small layer and biases may be plain
    assert 0.7 / 8 * 512 * 10 < found.mask < 512 * 10 / 8 + 9 * 8
    assert found.graph > 600  # the functions


@pytest.mark.parametrize("bits", [4, pytest.param(3, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)])
def test_onnx_codes_of_few_bits_are_values(bits: int, masked: Changed, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.zeros(1, 70),)
    network = deployable(masked(nn.Sequential(nn.Linear(70, 80), nn.Linear(80, 90)), 0.2).eval(), example)
    alive = [int(torch.count_nonzero(network.get_parameter(f"{layer}.weight"))) for layer in (0, 1)]
    found = breakdown(Onnx(f"palette{bits}"), network, tmp_path, example)
    assert 0 <= found.values - (alive[0] + alive[1] * bits / 8) < 80 + 340 + 400  # scales, biases in fp16, tables
    assert 0.7 / 8 * (70 * 80 + 80 * 90) < found.mask < (70 * 80 + 80 * 90) / 8


@pytest.mark.parametrize(
    ("precision", "min_os"),
    [
        ("fp16", "iOS16"),
        pytest.param("fp16", "iOS17", marks=pytest.mark.slow),
        pytest.param("fp16", "iOS18", marks=pytest.mark.slow),
        ("palette4", "iOS18"),
    ],
)
def test_a_core_ml_package_has_a_bit_for_each_packed_weight(
    precision: str, min_os: str, pruned: nn.Module, tmp_path: Path
) -> None:
    found = breakdown(CoreML(precision, min_os), pruned, tmp_path)
    assert 0 <= found.mask - 512 * 10 // 8 <= 8 * 9 // 8
    width = 0.5 if precision == "palette4" else 2
    linear = int(torch.count_nonzero(pruned[3].weight))
    assert width * linear <= found.values < width * linear + 2 * 8 * 9 + BIASES + 120
    assert found.graph == (tmp_path / "net.mlpackage/Data/com.apple.CoreML/model.mlmodel").stat().st_size


def test_a_damaged_core_ml_package_is_named(dense: nn.Module, tmp_path: Path) -> None:
    breakdown(CoreML(), dense, tmp_path)
    weights = tmp_path / "net.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(weights.read_bytes()[:64] + bytes(64) + weights.read_bytes()[128:])
    with pytest.raises(ValueError, match=r"net\.mlpackage"):
        CoreML().breakdown(tmp_path / "net.mlpackage")


@pytest.mark.slow
def test_an_executorch_file_is_a_program_with_xnnpacks_graph_and_weights(pruned: nn.Module, tmp_path: Path) -> None:
    found = breakdown(targets.load("executorch"), pruned, tmp_path)
    assert (found.mask, found.values) == (0, WEIGHTS + BIASES)
    assert 1000 < found.graph < 10_000
    assert found.rest < 2048  # padding


@pytest.mark.slow
def test_an_executorch_file_of_core_ml_has_the_packages_parts(pruned: nn.Module, tmp_path: Path) -> None:
    package = breakdown(CoreML(), pruned, tmp_path)
    found = breakdown(targets.load("executorch-coreml"), pruned, tmp_path)
    assert (found.mask, found.values, found.graph) == (package.mask, package.values, package.graph)
    assert found.rest > package.rest


def test_a_pytorch_file_has_its_tensors_as_values(pruned: nn.Module, tmp_path: Path) -> None:
    found = breakdown(targets.load("pytorch"), pruned, tmp_path)
    assert (found.mask, found.values) == (0, WEIGHTS + BIASES)
    assert found.graph > 1000


@pytest.mark.slow
@pytest.mark.needs("litert")
@pytest.mark.parametrize("pack", [False, True])
def test_a_litert_file_has_rows_and_places_in_its_graph(pack: bool, pruned: nn.Module, tmp_path: Path) -> None:
    from dwindle.export.litert.sparse import encode

    found = breakdown(targets.load("litert"), pruned, tmp_path, pack=pack)
    # The linear layer alone is sparse: in the file, its 512 inputs are in another order.
    form = encode(pruned[3].weight.reshape(10, 8, 64).transpose(1, 2).reshape(10, 512).numpy())
    assert found.mask == (form.segments.nbytes + form.indices.nbytes if pack else 0)
    assert found.values == (4 * 8 * 9 + form.values.nbytes if pack else WEIGHTS)
    assert BIASES <= found.rest < BIASES + 200
    assert 0 < found.graph < 4000


@pytest.mark.slow
@pytest.mark.needs("mnn")
@pytest.mark.parametrize("pack", [False, True])
def test_an_mnn_file_has_a_place_for_each_survivor(pack: bool, pruned: nn.Module, tmp_path: Path) -> None:
    found = breakdown(targets.load("mnn"), pruned, tmp_path, pack=pack)
    small, sparse = pruned.get_parameter("0.weight").numel(), survivors(pruned.get_submodule("3"))
    assert found.mask == (4 * sparse if pack else 0)
    assert found.values == (4 * (small + sparse) if pack else WEIGHTS)  # 3x3 kernels of this density stay plain
    assert found.rest == BIASES
    assert 0 < found.graph < 4000
    assert breakdown(targets.load("mnn", "int8"), pruned, tmp_path).mask < survivors(pruned)


@pytest.mark.parametrize(
    "name",
    [
        "onnx",
        "coreml",
        "executorch",
        "executorch-coreml",
        "pytorch",
        pytest.param("litert", marks=pytest.mark.needs("litert")),
        pytest.param("mnn", marks=pytest.mark.needs("mnn")),
    ],
)
def test_what_is_no_such_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\x93not a model" * 9)
    with pytest.raises(Exception) as refused:  # noqa: PT011  whatever the format's parser raises
        targets.load(name).breakdown(tmp_path / "file")
    assert not isinstance(refused.value, DwindleError | AssertionError)


def test_parts_that_are_more_than_the_file_are_refused() -> None:
    assert Breakdown.of(10, mask=1, values=2, graph=3) == Breakdown(1, 2, 3, 4)
    with pytest.raises(ValueError, match="more than the 5 bytes"):
        Breakdown.of(5, mask=1, values=2, graph=3)
