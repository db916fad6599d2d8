"""PyTorch's own files, eager and compiled, each in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.bench import bench
from dwindle.bench.process import Worker
from dwindle.bench.result import COMPRESSED, DENSE, Bench
from dwindle.bench.runtimes.torch import CACHE, TorchCompiled, compiled_anew
from dwindle.checkpoint import Checkpoint
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]
needs_compiler = pytest.mark.needs("compiler")


@pytest.fixture(scope="session")
def pt2_files(nets: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from dwindle.export.fold import deployable
    from dwindle.export.pytorch import PyTorch

    folder, example = tmp_path_factory.mktemp("pt2"), (torch.zeros(1, 1, 8, 8),)
    for name, net in zip(("dense", "net"), nets, strict=True):
        PyTorch().write(deployable(net, example), example, folder / f"{name}.pt2", pack=name == "net")
    return folder / "dense.pt2", folder / "net.pt2"


def sample() -> torch.Tensor:
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_eager(pt2_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]) -> None:
    with Worker("torch", pt2_files[1]) as worker:
        loaded = worker.load([sample().numpy()])
        piece = worker.time(3)
        (output,) = worker.infer([sample().numpy()])
    assert (loaded.version, loaded.compiles, loaded.accelerator) == (torch.__version__, False, None)
    assert piece.cpu_ns is not None
    with torch.no_grad():
        np.testing.assert_allclose(output, nets[1](sample()).numpy(), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.slow
def test_compiled_files_share_nothing_and_processes_everything(
    pt2_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]
) -> None:
    before = os.environ.get(CACHE)
    with compiled_anew():
        folder = Path(os.environ[CACHE])
        with Worker("torch-compiled", pt2_files[1]) as worker:
            assert worker.load([sample().numpy()]).compiles
            (output,) = worker.infer([sample().numpy()])
        kernels = set(folder.rglob("*.so"))
        assert {path.relative_to(folder).parts[0] for path in kernels} == {"net"}
        with Worker("torch-compiled", pt2_files[1]) as worker:
            worker.load([sample().numpy()])
        assert set(folder.rglob("*.so")) == kernels
    assert not folder.exists()
    assert os.environ.get(CACHE) == before
    with torch.no_grad():
        np.testing.assert_allclose(output, nets[1](sample()).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
def test_a_bench_has_rows_of_both(
    checkpoint: Checkpoint, export: Export, pt2_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The one that compiles is not here: that takes half a minute a file, and it is said why it has no figures."""
    from blobs import Blobs  # type: ignore[import-not-found]

    monkeypatch.setenv("CXX", "no-such-compiler")
    export("pytorch", *pt2_files)
    found = bench(checkpoint)
    assert Bench.load(checkpoint.bench_path) == found
    rows = {(row.runtime.name, row.role): row for row in found.rows}
    assert len(rows) == 4
    for role, net in zip((DENSE, COMPRESSED), nets, strict=True):
        eager, compiled = rows["torch", role], rows["torch-compiled", role]
        assert eager.latency is not None
        assert eager.latency.cpu_median is not None
        assert eager.accuracy is not None
        assert eager.accuracy.value == Blobs().evaluate(net, "test")
        assert compiled.latency is None
        assert "no-such-compiler is not installed" in compiled.reasons["latency"]


def test_without_a_compiler_it_says_what_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    missing = TorchCompiled().check()
    assert missing is not None
    assert missing.command == "apt-get install g++"
