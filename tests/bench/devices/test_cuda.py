"""On a GPU: files compute there what they compute here, and are measured. Where there is none, that is said.

Needs PyTorch alone, so that it runs on a machine of a data centre with little else:
`pytest tests/bench/devices/test_cuda.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.bench import bench
from dwindle.bench.devices.cuda import HALF, RUNTIMES, every_runtime
from dwindle.bench.devices.registry import reach
from dwindle.bench.process import Worker
from dwindle.bench.reference import apart
from dwindle.bench.result import COMPRESSED, DENSE, Bench, Row
from dwindle.bench.runtimes.torch import compiled_anew
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import ParityFailed, RuntimeUnavailable
from dwindle.export.fold import deployable
from dwindle.export.parity import TOLERANCE
from dwindle.export.pytorch import PyTorch
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]
Files = tuple[Path, Path]
needs_gpu = pytest.mark.needs("GPU")


class Net(nn.Module):
    """For the images of `blobs`, wide enough for sparse tensor cores but for its stem and its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1)
        self.wide = nn.Conv2d(64, 128, 3, 2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(128)
        self.narrow = nn.Conv2d(128, 64, 1)
        self.hidden = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.norm(self.wide(self.stem(x).relu())).relu()).relu()
        return self.last(self.hidden(x.mean((2, 3))).relu())


def two_of_four(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in (network.wide.weight, network.narrow.weight, network.hidden.weight):
            groups = weight.movedim(1, -1).unflatten(-1, (-1, 4))
            kept = groups.abs().argsort(-1, descending=True)[..., :2]
            weight *= torch.zeros_like(groups).scatter_(-1, kept, 1.0).flatten(-2).movedim(-1, 1)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Dense, and with half of the weights."""
    folder, example = tmp_path_factory.mktemp("pt2"), (torch.zeros(1, 1, 8, 8),)
    torch.manual_seed(0)
    dense = Net().eval()
    dense.norm.running_mean.normal_()
    PyTorch().write(deployable(dense, example), example, folder / "dense.pt2", pack=False)
    PyTorch().write(deployable(two_of_four(dense), example), example, folder / "net.pt2", pack=True)
    return folder / "dense.pt2", folder / "net.pt2"


def samples() -> list[np.ndarray]:
    made = torch.Generator().manual_seed(1)
    return [torch.randn(1, 1, 8, 8, generator=made).numpy() for _ in range(8)]


def here(path: Path) -> list[np.ndarray]:
    program = PyTorch().loaded(path)
    with torch.inference_mode():
        return [program(torch.from_numpy(sample)).numpy() for sample in samples()]


def test_half_precision_is_allowed_what_export_allows_it() -> None:
    assert TOLERANCE["fp16"] == HALF


def test_which_files_have_anything_to_show_of_two_of_four(files: Files) -> None:
    of = {runtime.name: runtime for runtime in map(_on, RUNTIMES)}
    assert [of["torch-2:4"].applies_to(path) for path in files] == [False, True]
    assert [of["torch"].applies_to(path) for path in files] == [True, True]
    assert of["torch-2:4"].launch(files[1], 1).through == "fp16, 3 layers by sparse tensor cores"
    assert of["torch"].launch(files[1], 1).through is None


@pytest.mark.needs("no GPU")
def test_without_a_gpu_it_is_said_why(
    checkpoint: Checkpoint, export: Export, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    export("pytorch", *files)
    with pytest.raises(RuntimeUnavailable, match=r"there is no GPU to measure on: PyTorch .* CUDA") as refused:
        bench(checkpoint, devices=["cuda"])
    assert (refused.value.code, refused.value.name) == ("missing", "cuda")
    assert main(["bench", str(checkpoint.path), "--device", "cuda"]) == 5
    assert "Traceback" not in capsys.readouterr().err
    assert not checkpoint.bench_path.exists()


@needs_gpu
@pytest.mark.parametrize("name", ["torch", "torch-compiled", "torch-2:4"])
def test_a_file_computes_there_what_it_computes_here(files: Files, name: str) -> None:
    runtime = _on(name)
    if reason := runtime.check():
        pytest.skip(str(reason))
    for path in files:
        with compiled_anew(), Worker(name, path, command=runtime.launch(path, 1).command) as worker:
            loaded = worker.load([samples()[0]])
            piece = worker.time(3)
            there = [worker.infer([sample])[0] for sample in samples()]
        assert apart(here(path), there) < (runtime.tolerance or TOLERANCE["fp32"])
        assert (loaded.version, loaded.accelerator) == (torch.__version__, "GPU")
        assert loaded.compiles == (name == "torch-compiled")
        assert (piece.wall_ns > 0).all()
        assert piece.cpu_ns is None


@needs_gpu
def test_sparse_tensor_cores_do_the_work(files: Files) -> None:
    """What multiplies is PyTorch's sparse type, and it has half of the values."""
    from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

    from dwindle.bench.devices.semi_structured import Product, sparse

    program = sparse(PyTorch().loaded(files[1]).half().to("cuda"), to_sparse_semi_structured)
    products = [module for module in program.modules() if isinstance(module, Product)]
    assert len(products) == 3
    assert all(isinstance(product.matrix, SparseSemiStructuredTensor) for product in products)
    with torch.profiler.profile() as profile, torch.inference_mode():
        program(torch.zeros(1, 1, 8, 8, dtype=torch.half, device="cuda"))
    called = {event.key.lower(): event.count for event in profile.key_averages()}
    assert any("sparse" in name and count >= 3 for name, count in called.items()), called
    assert called["aten::conv2d"] == 1  # the stem
    assert called["aten::linear"] == 1  # the classifier


@needs_gpu
@pytest.mark.usefixtures("short_slices")
def test_rows_are_measured(
    checkpoint: Checkpoint, export: Export, files: Files
) -> None:  # fmt: skip
    from blobs import Blobs  # type: ignore[import-not-found]
    from rich.console import Console

    from dwindle.bench.views.table import bench_table

    export("pytorch", *files)
    found = bench(checkpoint, devices=["cuda"])
    assert Bench.load(checkpoint.bench_path) == found
    rows = {(row.runtime.name, row.role): row for row in found.rows if row.runtime.device == "cuda"}
    assert {name for name, _ in rows} >= {"torch", "torch-2:4"}
    for (name, role), row in rows.items():
        assert row.runtime.machine is not None
        assert row.runtime.machine.cpu == torch.cuda.get_device_name(0)
        assert row.latency is not None, row.reasons
        assert row.latency.cpu_median is None
        assert "while the GPU computes: wall time counts" in row.reasons["latency.cpu_median"]
        assert row.latency.typical is not None
        assert row.accuracy is not None, row.reasons
        if name != "torch-2:4":
            program = PyTorch().loaded(files[role == COMPRESSED])
            assert row.accuracy.value == pytest.approx(Blobs().evaluate(_one_by_one(program), "test"))
        assert row.parity is not None, row.reasons
        assert row.parity.relative <= (row.parity.tolerance or 0)
        assert row.parity.tolerance == (HALF if name == "torch-2:4" else 1e-4)
        assert (row.compare is None) == (role == DENSE)
    assert reach("cuda").failure(found) is None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(found))
    assert "fp16, 3 layers by sparse tensor cores, on cuda" in capture.get()


@needs_gpu
@pytest.mark.usefixtures("short_slices")
def test_a_file_that_computes_something_else_there_is_a_failure(
    checkpoint: Checkpoint, export: Export, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwindle.bench.devices.cuda.RUNTIMES", {"torch": "pytorch"})
    export("pytorch", *files)
    found = bench(checkpoint, devices=["cuda"])

    def off(row: Row) -> Row:
        return replace(row, parity=row.parity and replace(row.parity, relative=0.5))

    wrong = reach("cuda").failure(replace(found, rows=tuple(map(off, found.rows))))
    assert isinstance(wrong, ParityFailed)
    assert (wrong.code, wrong.name) == ("parity", "cuda")


def _on(name: str):  # type: ignore[no-untyped-def]
    return next(runtime for runtime in every_runtime() if runtime.name == name)


def _one_by_one(program: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.cat([program(image) for image in images.split(1)])
