import io
import platform
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.bench import runtime
from dwindle.bench.process import Worker
from dwindle.bench.runtimes import CoreML


@pytest.fixture(scope="module")
def pte(nets: tuple[nn.Module, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(nets[1], (torch.zeros(1, 1, 8, 8),))
    with redirect_stderr(io.StringIO()):
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = tmp_path_factory.mktemp("pte") / "net.pte"
    path.write_bytes(lowered.buffer)
    return path


def computes(name: str, path: Path, net: nn.Module) -> None:
    sample = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with Worker(name, path) as worker:
        loaded = worker.load([sample.numpy()])
        again = worker.load([sample.numpy()])  # as every round of a measurement does
        (output,) = worker.infer([sample.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(output, net(sample).numpy(), rtol=1e-4, atol=1e-5)
    assert loaded.version == again.version
    assert loaded.version[0].isdigit()
    if platform.system() == "Linux":
        assert loaded.memory_bytes is not None
        assert loaded.memory_bytes > 0


def test_onnxruntime_runs_a_real_file(onnx_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]) -> None:
    computes("onnxruntime", onnx_files[1], nets[1])


def test_executorch_runs_a_real_file(pte: Path, nets: tuple[nn.Module, nn.Module]) -> None:
    computes("executorch", pte, nets[1])


def test_every_registered_runtime_says_whether_it_can_run_here() -> None:
    found = {one.name: one.unavailable() for one in runtime.all_runtimes()}
    assert {"onnxruntime", "executorch", "coreml"} <= found.keys()
    assert found["onnxruntime"] is None
    assert found["executorch"] is None


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML is here")
def test_core_ml_says_why_it_cannot_run() -> None:
    assert CoreML().unavailable() == "Core ML runs on Apple's systems only, and this is not a Mac"


def test_importing_bench_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = "torch numpy onnxruntime executorch coremltools jinja2 sklearn rich"
    code = f"import sys, dwindle.bench; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
