"""What would be asked of Qualcomm AI Hub: nothing of it has been run on its phones, and it says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dwindle.bench import Bench, bench, build, doctor, report, wire
from dwindle.bench.devices import qualcomm
from dwindle.bench.devices.registry import reach
from dwindle.bench.process import Worker, WorkerFailed
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import DwindleError, RuntimeUnavailable, UsageError

CLIENT = """
class Device:
    def __init__(self, name):
        self.name = name

class Job:
    job_id = "j1"

    def __init__(self, asked):
        self.asked = asked

    def wait(self):
        fails = self.asked["device"].name == "Broken Phone"
        return type("Status", (), {"success": not fails, "message": "the phone fell over"})

    def download_profile(self):
        times = [1000, 1100, 1200] if self.asked["model"].endswith("net.onnx") else [2000, 2200, 2400]
        summary = {"all_inference_times": times, "estimated_inference_time": times[0], "first_load_time": 5000}
        return {"execution_summary": summary, "execution_detail": []}

def submit_inference_job(model, device, inputs=None, name=None, options="", retry=True, profile=True, project=None):
    print("uploading")  # as the client does
    return Job(dict(model=model, device=device, inputs=inputs, profile=profile))
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of the client in place of its environment: it has an account, and its jobs take no time."""
    site = tmp_path / "client"
    (site / "qai_hub").mkdir(parents=True)
    (site / "qai_hub" / "__init__.py").write_text(CLIENT)
    info = site / "qai_hub-0.56.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qai-hub\nVersion: 0.56.0\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (qualcomm.root() / "bin").mkdir(parents=True)
    started = f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n'
    (qualcomm.root() / "bin" / "python").write_text(started)
    (qualcomm.root() / "bin" / "python").chmod(0o755)
    (qualcomm.root() / "setup.json").write_text("{}")
    (tmp_path / "client.ini").touch()
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "client.ini"))


def aihub() -> ModuleType:
    spec = spec_from_file_location("aihub", build.NATIVE / "aihub.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_worker_runs_in_an_environment_of_its_own() -> None:
    device = reach("qualcomm://Samsung Galaxy S24")
    assert list(device.targets) == ["onnx", "litert"]
    for runtime, name in zip(device.runtimes(), ("onnxruntime", "litert"), strict=True):
        assert runtime.name == name
        how = runtime.launch(Path("net.onnx"), 1)
        python, _, script, *rest = how.command
        assert Path(python).is_relative_to(qualcomm.root())
        assert Path(script).exists()
        assert rest == [wire.__file__, "net.onnx", "Samsung Galaxy S24"]
        assert how.patience == qualcomm.PATIENCE
    with pytest.raises(UsageError) as refused:
        reach("qualcomm://")
    assert (refused.value.code, refused.value.name) == ("malformed-name", "qualcomm://")


def test_a_job_is_asked_for_a_profile_of_the_file() -> None:
    device = object()
    assert aihub().job_options(Path("exports/net.tflite"), device) == {
        "model": "exports/net.tflite", "device": device, "inputs": None, "name": "dwindle net.tflite", "profile": True,
    }  # fmt: skip


def test_microseconds_become_nanoseconds() -> None:
    module = aihub()
    np.testing.assert_array_equal(module.times_ns({"all_inference_times": [3, 4]}), [3000, 4000])
    older: dict[str, Any] = {"all_inference_times": [], "estimated_inference_time": 7}
    np.testing.assert_array_equal(module.times_ns(older), [7000])


@pytest.mark.usefixtures("client", "short_slices")
def test_files_are_timed_and_what_is_not_told_has_its_reason(
    checkpoint: Checkpoint, export: Callable[..., Any], onnx_files: tuple[Path, Path]
) -> None:
    """Through a double of the client: how jobs become rows, not what a phone says."""
    export("onnx", *onnx_files)
    found = bench(checkpoint, devices=["qualcomm://Test Phone"])
    dense, compressed = (row for row in found.rows if row.runtime.device == "qualcomm://Test Phone")
    assert compressed.latency is not None
    assert dense.latency is not None
    assert (compressed.latency.min, dense.latency.min, compressed.latency.load) == (1.0, 2.0, 5.0)
    assert compressed.compare is not None
    assert compressed.compare.ratio == pytest.approx(0.5, abs=0.05)
    assert compressed.runtime.version == "as AI Hub has it, by qai-hub 0.56.0"
    assert compressed.accuracy is compressed.parity is compressed.memory_bytes is None
    assert "it is timed only" in compressed.reasons["accuracy"]
    assert "AI Hub doesn't say" in compressed.reasons["memory_bytes"]
    assert "the unit that AI Hub chose computes" in compressed.reasons["latency.cpu_median"]
    assert reach("qualcomm://Test Phone").failure(found) is None
    assert Bench.load(checkpoint.bench_path) == found
    unknown = replace(found, rows=tuple(replace(row, latency=None, reasons={"latency": "gone"}) for row in found.rows))
    wrong = reach("qualcomm://Test Phone").failure(unknown)
    assert wrong is not None
    assert (wrong.code, wrong.name) == ("unmeasured", "qualcomm://Test Phone")


@pytest.mark.usefixtures("client")
def test_a_job_that_fails_is_quoted(tmp_path: Path) -> None:
    runtime = qualcomm.AIHub("qualcomm://Broken Phone").runtimes()[0]
    command = runtime.launch(tmp_path / "net.onnx", 1).command
    with (
        Worker(runtime.name, tmp_path / "net.onnx", command=command) as worker,
        pytest.raises(WorkerFailed, match="the phone fell over"),
    ):
        worker.load([])


def test_without_the_client_or_an_account_it_is_refused_in_words(
    checkpoint: Checkpoint,
    export: Callable[..., Any],
    onnx_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export("onnx", *onnx_files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["bench", str(checkpoint.path), "--device", "qualcomm://Any"]) == RuntimeUnavailable.exit_code
    assert "run `dwindle doctor --setup qualcomm`" in capsys.readouterr().err
    finding = doctor._device(qualcomm.AIHub)
    assert (finding.found, finding.command) == (None, "dwindle doctor --setup qualcomm")
    assert finding.not_yet_run_on == "Qualcomm hardware"
    assert "has not been run on Qualcomm hardware: AI Hub" in report(checkpoint).read_text()
    qualcomm.root().mkdir(parents=True)
    (qualcomm.root() / "setup.json").write_text("{}")
    monkeypatch.setenv("QAIHUB_CLIENT_INI", str(tmp_path / "none.ini"))
    missing = qualcomm.AIHub.check()
    assert missing is not None
    assert (missing.command or "").endswith("configure --api_token TOKEN")


@pytest.mark.slow
def test_an_installation_that_fails_is_quoted_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(qualcomm, "CLIENT", "qai-hub-of-nowhere==0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DwindleError, match="No matching distribution") as refused:
        qualcomm.AIHub.setup()
    assert (refused.value.code, refused.value.name) == ("setup-failed", "qualcomm")
    assert "is not installed" in str(qualcomm.AIHub.check())
