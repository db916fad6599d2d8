"""Files in a page of a real Chromium; and what is said where there is none."""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from dwindle.bench import Bench, bench, report
from dwindle.bench.devices import web
from dwindle.bench.devices.browser import Browser
from dwindle.bench.devices.registry import reach
from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.result import COMPRESSED, DENSE, Parity, Row
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]
needs_litert = pytest.mark.needs("litert")
needs_browser = pytest.mark.needs("browser")


def one(found: Bench, role: str, device: str | None) -> Row:
    (row,) = (row for row in found.find("onnx", role) if row.runtime.device == device)
    return row


def worker(file: Path, target: str = "onnx") -> Worker:
    (runtime,) = (one for one in Browser("browser").runtimes() if one.target == target)
    return Worker(runtime.name, file, command=runtime.launch(file, 1).command)


@needs_browser
@pytest.mark.usefixtures("short_slices")
@pytest.mark.slow
def test_files_are_measured_in_a_page(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    nets: tuple[nn.Module, nn.Module],
) -> None:
    from blobs import Blobs  # type: ignore[import-not-found]
    from rich.console import Console

    from dwindle.bench.views.table import bench_table

    export("onnx", *onnx_files)
    found = bench(checkpoint, devices=["browser:4"])
    for role, net in zip((DENSE, COMPRESSED), nets, strict=True):
        row = one(found, role, "browser:4")
        assert (row.runtime.name, row.runtime.version) == ("onnxruntime-web", web.PACKAGES[0].version)
        assert row.runtime.machine is not None
        assert row.runtime.machine.system.endswith(", CPU throttled 4×")
        assert "Chrom" in row.runtime.machine.system
        assert row.latency is not None
        assert row.latency.min > 0
        assert row.latency.cpu_median is None
        assert "no clock of its thread's CPU time" in row.reasons["latency.cpu_median"]
        assert row.accuracy is not None
        assert row.accuracy.value == Blobs().evaluate(net, "test")
        assert row.parity is not None
        assert 0 < row.parity.relative < 1e-5
        assert (row.parity.reference, row.parity.samples) == ("onnxruntime", 16)
        assert one(found, role, None).latency is None
    compressed = one(found, COMPRESSED, "browser:4")
    assert compressed.compare is not None
    assert "wall medians" in compressed.compare.estimator
    if sys.platform == "linux":
        assert compressed.memory_bytes is not None
        assert compressed.noise is not None
        assert compressed.noise.cpu_over_wall is not None
    assert Bench.load(checkpoint.bench_path) == found
    assert reach("browser:4").failure(found) is None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(found))
    assert "on browser:4 (" in capture.get()
    assert "onnx compressed in onnxruntime-web on browser:4: outputs within" in capture.get()
    assert "of onnxruntime&#39;s here" in report(checkpoint).read_text()


@pytest.mark.slow
@needs_browser
@needs_litert
@pytest.mark.usefixtures("short_slices")
def test_litert_files_are_measured_in_a_page(
    checkpoint: Checkpoint, export: Export, tflite_files: tuple[Path, Path]
) -> None:
    """A page of LiteRT's frees its tensors itself: the accuracy of 40 images makes 80 of them."""
    export("litert", *tflite_files)
    found = bench(checkpoint, devices=["browser"])
    for role in (DENSE, COMPRESSED):
        (row,) = (row for row in found.find("litert", role) if row.runtime.device == "browser")
        versions = {package.name: package.version for package in web.PACKAGES}
        assert (row.runtime.name, row.runtime.version) == ("litert.js", versions["@litertjs/core"])
        assert row.latency is not None
        assert row.accuracy is not None
        assert row.parity is not None
        assert row.parity.relative < 1e-5
        assert row.parity.reference == "litert"
    assert reach("browser").failure(found) is None


@pytest.mark.slow
@needs_browser
@needs_litert
@pytest.mark.parametrize("threads", [1, 2])
def test_litert_computes_in_a_page(
    tflite_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module], threads: int
) -> None:
    samples = torch.randn(3, 1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (runtime,) = (one for one in Browser("browser").runtimes() if one.target == "litert")
    command = runtime.launch(tflite_files[1], threads).command
    with Worker(runtime.name, tflite_files[1], threads, command=command) as page, torch.no_grad():
        page.load([samples[0].numpy()])
        page.load([samples[0].numpy()])  # anew, as every round does
        assert (page.time(5).wall_ns > 0).all()
        for sample in samples:
            (output,) = page.infer([sample.numpy()])
            np.testing.assert_allclose(output, nets[1](sample).numpy(), rtol=1e-4, atol=1e-5)


@needs_browser
def test_a_page_computes_and_leaves_nothing_behind(
    onnx_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]
) -> None:
    """Its processes end with its worker, even one that is killed."""
    sample = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    page = worker(onnx_files[1])
    loaded = page.load([sample.numpy()])
    piece = page.time(7)
    (output,) = page.infer([sample.numpy()])
    started = psutil.Process(page._process.pid).children(recursive=True)
    assert any("chrom" in child.name() for child in started)
    page.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
    with torch.no_grad():
        np.testing.assert_allclose(output, nets[1](sample).numpy(), rtol=1e-4, atol=1e-5)
    assert loaded.throttle == 1
    assert (piece.wall_ns > 0).all()
    assert piece.wall_ns.shape == (7,)
    assert piece.cpu_ns is None


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(
    ("target", "name", "failed"),
    [
        ("onnx", "net.onnx", "onnxruntime-web on net.onnx"),
        ("litert", "net.tflite", "litert.js on net.tflite"),
    ],
)
def test_a_file_that_is_no_model_is_refused_in_words(tmp_path: Path, target: str, name: str, failed: str) -> None:
    (tmp_path / name).write_bytes(b"not a model")
    with worker(tmp_path / name, target) as page, pytest.raises(WorkerFailed, match=f"{re.escape(failed)} failed: "):
        page.load([np.zeros((1, 1, 8, 8), np.float32)])


@pytest.mark.slow
@needs_browser
@pytest.mark.usefixtures("short_slices")
def test_of_a_browser_that_dies_what_it_told_is_kept(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of the second file's measurement, after this machine's was made."""
    time_slice = Worker.time

    def cut(worker: Worker, iterations: int) -> object:
        if worker.runtime.endswith("on browser") and worker.file.name == "net.onnx":
            for child in psutil.Process(worker._process.pid).children(recursive=True):
                if "chrom" in child.name():
                    child.kill()
        return time_slice(worker, iterations)

    monkeypatch.setattr(Worker, "time", cut)
    export("onnx", *onnx_files)
    assert main(["bench", str(checkpoint.path), "--device", "host,browser"]) == RuntimeUnavailable.exit_code
    said = capsys.readouterr().err.splitlines()[-1]
    assert "no latency of exports/onnx/net.onnx on browser: onnxruntime-web on browser on net.onnx" in said
    kept = Bench.load(checkpoint.bench_path)
    assert one(kept, COMPRESSED, None).latency is not None
    assert one(kept, DENSE, "browser").latency is not None
    assert one(kept, COMPRESSED, "browser").latency is None


@pytest.mark.parametrize("name", ["browser:", "browser:fast", "browser:0.5", "browser:nan", "browser:1000"])
def test_what_is_no_throttle_is_refused(name: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError) as refused:
        bench(checkpoint, devices=[name])
    assert (refused.value.code, refused.value.name) == ("malformed-name", name)


def test_unthrottled_has_one_name() -> None:
    assert Browser("browser:1").url == Browser("browser").url == "browser"
    assert Browser("browser:2.50").url == "browser:2.5"


def test_without_a_download_its_command_is_named(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export("onnx", *onnx_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "chromium", lambda: "/usr/bin/chromium")
    monkeypatch.setattr(web, "find_spec", lambda name: object())
    assert main(["bench", str(checkpoint.path), "--device", "browser"]) == RuntimeUnavailable.exit_code
    assert "run `dwindle doctor --setup browser`" in capsys.readouterr().err
    assert not checkpoint.bench_path.exists()
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    missing = Browser.check()
    assert missing is not None
    assert missing.command == 'pip install "dwindle[browser]"'


def test_a_tarball_that_was_not_expected_is_not_used(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "ort.tgz", "w:gz") as tar:
        entry = tarfile.TarInfo("package/dist/ort.wasm.min.mjs")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(DwindleError) as refused:
        web.unpack(tmp_path / "ort.tgz", web.PACKAGES[0], tmp_path / "out")
    assert (refused.value.code, refused.value.name) == ("other-content", web.PACKAGES[0].name)
    assert not (tmp_path / "out").exists()


def test_without_npm_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="apt-get install npm") as refused:
        web.setup()
    assert (refused.value.code, refused.value.name) == ("missing", "browser")
    assert not (tmp_path / "cache").exists()


def test_npm_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DwindleError, match="npm error code E404") as refused:
        web.setup()
    assert (refused.value.code, refused.value.name) == ("setup-failed", "onnxruntime-web")
    assert not web.root().exists()


@pytest.mark.parametrize("relative", [1e-2, float("inf")])
def test_another_answer_than_here_is_failed_parity(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], relative: float
) -> None:
    from dwindle.bench.result import Accuracy, Latency, Machine, RuntimeUsed
    from dwindle.bench.rows import blank_rows
    from dwindle.manifest import manifests

    export("onnx", *onnx_files)
    ((_, blank),) = blank_rows(checkpoint.path, manifests(checkpoint.exports))
    row = replace(
        blank,
        runtime=RuntimeUsed("onnxruntime-web", "1", 1, device="browser"),
        latency=Latency(1, 1, 1, 1, 1, None, None, 1, 1, 1),
        accuracy=Accuracy("accuracy", 90, 100, None, "test"),
        parity=Parity(relative, 1e-4, 16, "onnxruntime"),
    )
    wrong = reach("browser").failure(Bench((row,), Machine("cpu", 2, "Linux"), 0, "now", "0.1.0"))
    assert isinstance(wrong, ParityFailed)
    assert (wrong.code, wrong.name, wrong.path) == ("parity", "browser", Path("exports/onnx/net.onnx"))
