import platform
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.bench.launch import Launch, python_worker
from dwindle.bench.process import Worker
from dwindle.bench.runtimes.coreml import CoreML
from dwindle.bench.runtimes.executorch import ExecuTorch
from dwindle.bench.runtimes.onnxruntime import OnnxRuntime
from dwindle.bench.runtimes.runtime import GROUP, all_runtimes, load
from dwindle.errors import UsageError

needs_compiler = pytest.mark.needs("Linux", "compiler")


def computes(name: str, path: Path, net: nn.Module, command: list[str] | None = None) -> None:
    sample = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with Worker(name, path, command=command) as worker:
        loaded = worker.load([sample.numpy()])
        piece = worker.time(3)
        again = worker.load([sample.numpy()])  # as every round of a measurement does
        (output,) = worker.infer([sample.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(output, net(sample).numpy(), rtol=1e-4, atol=1e-5)
    assert (piece.wall_ns > 0).all()
    assert piece.wall_ns.shape == piece.cpu_ns.shape == (3,)
    assert loaded.version == again.version
    assert loaded.version[0].isdigit()
    if platform.system() == "Linux":
        assert loaded.memory_bytes is not None
        assert loaded.memory_bytes > 0


def test_onnxruntime_runs_a_real_file(onnx_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]) -> None:
    computes("onnxruntime", onnx_files[1], nets[1])


def test_executorch_runs_a_real_file_in_python(pte_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]) -> None:
    computes("executorch", pte_files[1], nets[1])


@pytest.mark.needs("litert")
def test_litert_runs_a_real_file(nets: tuple[nn.Module, nn.Module], tflite_files: tuple[Path, Path]) -> None:
    computes("litert", tflite_files[1], nets[1])


@pytest.mark.needs("mnn")
def test_mnn_runs_a_real_file(nets: tuple[nn.Module, nn.Module], tmp_path: Path) -> None:
    from dwindle.export.fold import deployable
    from dwindle.export.mnn.target import MNN

    example = (torch.zeros(1, 1, 8, 8),)
    MNN().write(deployable(nets[1], example), example, tmp_path / "net.mnn", pack=True)
    computes("mnn", tmp_path / "net.mnn", nets[1])


@pytest.mark.slow
@pytest.mark.needs("no Mac")
def test_executorch_for_core_ml_runs_a_real_file_by_the_interpreter(
    nets: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    from dwindle.export.executorch.coreml import ExecuTorchCoreML
    from dwindle.export.fold import deployable

    example, x = (torch.zeros(1, 1, 8, 8),), torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    ExecuTorchCoreML().write(deployable(nets[1], example), example, tmp_path / "net.pte", pack=True)
    with Worker("executorch-coreml", tmp_path / "net.pte") as worker:
        assert worker.load([x.numpy()]).version == f"torch {torch.__version__}"
        (output,) = worker.infer([x.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(output, nets[1](x).numpy(), atol=1e-2)  # its weights are fp16


@needs_compiler
def test_executorch_runs_a_real_file_natively(pte_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]) -> None:
    how = ExecuTorch().launch(pte_files[1], 1)
    assert how.through == "native runner"
    assert how.command[1:] == [str(pte_files[1]), "1"]
    computes("executorch", pte_files[1], nets[1], how.command)


def test_without_a_compiler_executorch_runs_in_python_and_says_why(
    pte_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    how = ExecuTorch().launch(pte_files[1], 2)
    assert how.command == python_worker("executorch", pte_files[1], 2)
    if platform.system() == "Linux":
        assert how.through is not None
        assert how.through.startswith("Python bindings: g++ is not installed")


@needs_compiler
def test_nor_does_a_cache_that_cannot_be_written_stop_it(
    pte_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    how = ExecuTorch().launch(pte_files[1], 1)
    assert how.command == python_worker("executorch", pte_files[1], 1)
    assert (how.through or "").startswith("Python bindings: cannot write")


def test_a_runtime_with_one_way_needs_no_words_about_it(tmp_path: Path) -> None:
    how = OnnxRuntime().launch(tmp_path / "net.onnx", 1)
    assert how == Launch(python_worker("onnxruntime", tmp_path / "net.onnx", 1), None)


def test_every_registered_runtime_says_whether_it_can_run_here() -> None:
    found = {one.name: one.check() for one in all_runtimes()}
    assert {
        "onnxruntime",
        "executorch",
        "coreml",
        "executorch-coreml",
        "litert",
        "mnn",
        "torch",
        "torch-compiled",
    } <= found.keys()
    assert found["onnxruntime"] is None
    assert found["executorch"] is None


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("pathlib:Path", "not-a-subclass"),
        ("os.path:join", "not-a-subclass"),
        ("os.path:no_such_thing", "not-importable"),
        ("no_such_package:Runtime", "not-importable"),
    ],
)
def test_what_is_registered_and_no_runtime_is_refused(named: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("strange", named, GROUP)
    monkeypatch.setattr("dwindle.registry.entries", lambda group: {entry.name: entry})
    with pytest.raises(UsageError) as refused:
        load("strange")
    assert (refused.value.code, refused.value.name) == (code, "strange")


@pytest.mark.needs("no Mac")
def test_without_core_ml_it_says_what_runs_its_files(tmp_path: Path) -> None:
    assert CoreML().check() is None
    through = CoreML().launch(tmp_path / "net.mlpackage", 1).through
    assert through == "dwindle's own interpreter of the file, which has not been run on Apple hardware"


def test_importing_bench_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = "torch numpy onnxruntime executorch coremltools jinja2 sklearn rich"
    code = f"import sys, dwindle.bench; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
