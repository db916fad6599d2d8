"""Operators as the runtimes' own profilers name them, on real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.bench import Bench, bench
from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.profile import ranked
from dwindle.bench.result import COMPRESSED, DENSE, PORTABLE
from dwindle.bench.runtimes.executorch import ExecuTorch
from dwindle.bench.runtimes.steady import steady_mean
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import UsageError
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]


def test_shares_are_of_the_whole_and_the_slowest_comes_first() -> None:
    first, second = ranked([("a", "Relu", 1.0, "x"), ("b", "Conv", 3.0, "x")])
    assert (first.name, first.share) == ("b", 0.75)
    assert (second.name, second.share) == ("a", 0.25)
    assert ranked([]) == ()
    assert ranked([("a", "Relu", 0.0, "x")])[0].share == 0  # too quick for the profiler's clock


def test_neither_the_first_nor_an_interrupted_run_counts() -> None:
    assert steady_mean([99.0, *[1.0] * 10, *[2.0] * 9, 500.0]) == pytest.approx(28 / 19)
    assert steady_mean([99.0, 1.0]) == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_onnxruntime_names_every_operator(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    export("onnx", *onnx_files)
    assert main(["bench", str(checkpoint.path), "--profile"]) == 0
    found = Bench.load(checkpoint.bench_path)
    operators = found.find("onnx", COMPRESSED)[0].operators
    assert operators is not None
    assert {"Gemm"} < {one.kind for one in operators}
    assert any("Conv" in one.kind for one in operators)
    assert sum(one.share for one in operators) == pytest.approx(1)
    assert all(one.ms >= 0 for one in operators)
    assert found.find("onnx", DENSE)[0].operators is None
    assert "operators by their share of the time" in capsys.readouterr().out


@pytest.mark.usefixtures("short_slices", "odd_runtimes")
def test_a_runtime_without_a_profiler_says_so(checkpoint: Checkpoint, export: Export, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.write_text("work")
    export("odd", work, work)
    rows = {row.runtime.name: row for row in bench(checkpoint, profile=True).rows if row.role == COMPRESSED}
    assert rows["odd"].reasons["operators"] == "odd has no profiler here"
    with Worker("odd", work) as worker, pytest.raises(WorkerFailed, match="odd has no profiler"):
        worker.profile(3)


def test_it_is_of_this_machine(checkpoint: Checkpoint) -> None:
    assert main(["bench", str(checkpoint.path), "--device", "arm64", "--profile"]) == UsageError.exit_code


@pytest.mark.slow
def test_executorch_names_what_fell_back(tmp_path: Path) -> None:
    """A running sum, which XNNPACK has not, between layers that it takes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](self[0](x).cumsum(dim=1))

    image = torch.randn(1, 64)
    program = torch.export.export(Net(nn.Linear(64, 64), nn.Linear(64, 10)).eval(), (image,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (tmp_path / "net.pte").write_bytes(lowered.to_executorch().buffer)
    operators = ranked(ExecuTorch().profile(tmp_path / "net.pte", 1, [image.numpy()], 5))
    where = {one.kind: one.where for one in operators}
    assert where["cumsum"] == PORTABLE
    assert where["Fully Connected"] == "XNNPACK"
