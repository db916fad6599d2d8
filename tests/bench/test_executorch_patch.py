"""The patch of ExecuTorch changes the line that it is about, wherever in the file that stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dwindle.bench.build import NATIVE

PATCH = NATIVE / "executorch-sparse.patch"


@pytest.mark.needs("git")
@pytest.mark.parametrize("before", [0, 2199, 3000])
def test_the_delegate_asks_for_sparse_kernels(before: int, tmp_path: Path) -> None:
    source = tmp_path / "backends/xnnpack/runtime/XNNCompiler.cpp"
    source.parent.mkdir(parents=True)
    line = "  uint32_t runtime_flags = 0;\n\n#if defined(ENABLE_XNNPACK_PROFILING)\n"
    source.write_text("  }\n" * before + line + "  }\n" * 50)
    subprocess.run(["git", "apply", str(PATCH)], cwd=tmp_path, check=True, capture_output=True)
    assert "  uint32_t runtime_flags = XNN_FLAG_HINT_SPARSE_INFERENCE;\n\n#if" in source.read_text()
    assert "runtime_flags = 0" not in source.read_text()
