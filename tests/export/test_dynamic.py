"""Inputs whose sizes vary: in the files of each format, at their bounds, and refused where the model fixes one."""

import inspect
from itertools import product
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.errors import ParityFailed, UsageError
from dwindle.export.coreml.read import read
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_one
from dwindle.export.options import ExportOptions
from dwindle.export.parity import compare
from dwindle.export.sizes import resized
from dwindle.export.target import Outputs, Target
from dwindle.export.targets import load
from dwindle.models.signature import flat, signature_of
from dwindle.signature import Varying, varying
from tests.networks import Listener, Reader, sentences

TEXT = ("input_ids:1=1..16", "attention_mask:1=1..16")


class Scorer(nn.Module):
    """Scores an image of any height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.stem(image).mean((2, 3)))  # type: ignore[no-any-return]


class Placed(Scorer):
    """Adds a table of positions, which has one size."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(1, 3, 32, 32))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image + self.places)


class Picky(Scorer):
    """Does with large images what it doesn't with small ones."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image * 2 if image.shape[2] > 20 else image)


class Halved(Scorer):
    """Joins an image and its half, doubled: they fit for an even number of rows."""

    def forward(self, image: Tensor) -> Tensor:
        half = nn.functional.max_pool2d(image, 2, ceil_mode=True)
        return super().forward(image + nn.functional.interpolate(half, scale_factor=2))


def made(kind: type[nn.Module], *texts: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network whose sizes vary, and samples."""
    torch.manual_seed(0)
    text = kind is Reader
    real = tuple(sentences(5).values()) if text else (torch.rand(5, 3, 32, 32),)
    if kind is Listener:
        real = torch.rand(5, 5, 8), torch.rand(5, 1, 16)
    network = kind().eval().requires_grad_(False)
    signature = signature_of(network, tuple(one[:1] for one in real), tuple(sentences(1)) if text else None)
    return flat(network, varying(signature, texts)), real


def proven(target: Target, network: nn.Module, real: tuple[Tensor, ...], path: Path) -> tuple[str, ...]:
    """The sizes at which a file is found to be its network."""
    example = tuple(one[:1] for one in real)
    shipped = deployable(network, example)
    target = target.calibrated(real) if target.calibrates else target
    target.write(shipped, example, path, pack=True)
    return compare(target, path, network, shipped, real).parity.sizes


FAST = [("onnx", Scorer), ("onnx", Reader), ("coreml", Reader)]
OTHERS = [
    ("coreml", Scorer),
    ("executorch", Scorer),
    ("executorch", Reader),
    *product(("executorch int8", "executorch w8a8"), (Scorer, Reader)),
]


@pytest.mark.parametrize(("name", "kind"), [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)])
def test_files_are_their_network_at_every_bound(name: str, kind: type[nn.Module], tmp_path: Path) -> None:
    texts = TEXT if kind is Reader else ("batch=1..3", "image:2=16..64", "image:3=16..48")
    target = load(*name.split())
    network, real = made(kind, *texts)
    sizes = proven(target, network, real, tmp_path / f"net{target.suffix}")
    if kind is Reader:
        assert sizes == tuple(f"input_ids:1={size}, attention_mask:1={size}" for size in (1, 8, 16))
    else:
        ends = ("1, image:2=16, image:3=16", "2, image:2=40, image:3=32", "3, image:2=64, image:3=48")
        assert sizes == tuple(f"image:0={each}" for each in (*ends, "1, image:2=64, image:3=16"))


@pytest.mark.slow
def test_sizes_have_names_in_onnx_and_bounds_in_core_ml(tmp_path: Path) -> None:
    network, real = made(Reader, "batch=1..3", *TEXT)
    example = tuple(one[:1] for one in real)
    load("onnx").write(network, example, tmp_path / "net.onnx", pack=True)
    graph = onnx.load(tmp_path / "net.onnx").graph
    names = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert names["input_ids"] == names["attention_mask"] == ["batch", "input_ids_1"]
    assert names["output_1_embedding"] == ["batch", 32]
    load("coreml").write(network, example, tmp_path / "net.mlpackage", pack=True)
    ranges = read(tmp_path / "net.mlpackage")[0].description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert [(one.lowerBound, one.upperBound) for one in ranges] == [(1, 3), (1, 16)]


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        (Placed, "image:2=16..64", "return super().forward(image + self.places)"),
        (Picky, "image:2=16..64", "return super().forward(image * 2 if image.shape[2] > 20 else image)"),
        (Halved, "image:2=30..34", "return super().forward(image + nn.functional.interpolate(half, scale_factor=2))"),
        (Listener, "frames:1=1..9", "heard, last = self.cell(frames, state.transpose(0, 1))"),
    ],
)
def test_a_size_that_the_model_fixes_is_refused_by_its_line(kind: type[nn.Module], text: str, code: str) -> None:
    network, real = made(kind, text)
    with pytest.raises(UsageError) as refused:
        deployable(network, tuple(one[:1] for one in real))
    assert (refused.value.code, refused.value.option) == ("fixed-by-model", "dynamic")
    assert refused.value.name == text.partition("=")[0]
    file = Path(str(inspect.getsourcefile(kind)))
    line = [each.strip() for each in file.read_text().splitlines()].index(code) + 1
    assert f"{file.name}, line {line}" in str(refused.value)


def test_steps_keep_to_the_sizes_that_a_model_takes(tmp_path: Path) -> None:
    network, real = made(Halved, "image:2=16..64/2")
    assert len(proven(load("onnx"), network, real, tmp_path / "net.onnx")) == 3


def test_sizes_that_must_be_one_vary_together() -> None:
    network, real = made(Reader, "input_ids:1=1..16")
    with pytest.raises(UsageError) as refused:
        deployable(network, tuple(one[:1] for one in real))
    assert refused.value.code == "fixed-by-model"


@pytest.mark.parametrize(
    "text",
    [
        "rows", "image", "image:2", "image:4=1..64", "image:2=64..16", "image:2=0..64", "image:2=40..64",
        "image:2=16..63/5", "picture:2=16..64", "batch=2..4",
    ],
)  # fmt: skip
def test_what_names_no_sizes_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        made(Scorer, text)
    assert (refused.value.code, refused.value.option, refused.value.name) == ("bad-dynamic", "dynamic", text)


def test_a_size_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        made(Scorer, "batch", "image:0=1..4")


def test_none_fixes_every_size() -> None:
    network, real = made(Scorer, "none")
    assert not list(resized(network, real))


def test_a_file_that_is_wrong_at_one_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, real = made(Scorer, "image:2=16..64")
    target = load("onnx")
    run = target.run

    def off(path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        found = run(path, inputs, batch=batch)
        return found if inputs[0].shape[2] != 64 else (found[0] + 1,)

    monkeypatch.setattr(target, "run", off)
    with pytest.raises(ParityFailed) as failed:
        proven(target, network, real, tmp_path / "net.onnx")
    assert failed.value.code == "outputs-differ"
    assert "image:2=64" in str(failed.value)


@pytest.mark.slow
def test_what_compress_is_told_is_in_checkpoint_and_files(tmp_path: Path) -> None:
    request = Request(
        "tests.networks:Reader",
        {"task": "tests.networks:Reading"},
        density=0.5,
        rounds=1,
        dynamic=TEXT,
        rehearsal=False,
    )
    done = compress(request, tmp_path / "net.dwindle")
    signature = Checkpoint.load(done.path).signature
    assert signature is not None
    assert [one.varies for one in signature.inputs] == [(Varying(1, 1, 16),)] * 2
    told, anew = ExportOptions(), ExportOptions(dynamic=("none",))
    manifest = export_one(done, "onnx", told, trust=True)
    assert (manifest.signature, len(manifest.parity.sizes)) == (signature, 3)
    with pytest.raises(UsageError) as refused:
        export_one(done, "pytorch", told, trust=True)
    assert (refused.value.code, refused.value.name) == ("fixed-by-format", "pytorch")
    fixed = export_one(done, "onnx", anew, trust=True)
    assert fixed.signature is not None
    assert (fixed.signature.fixed, fixed.parity.sizes) == (True, ())
