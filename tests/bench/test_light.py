"""What `pip install dwindle` alone has to do, without the packages of extras: gate, show, diff and report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest

from dwindle.checkpoint import Checkpoint
from dwindle.manifest import Manifest

IMPORTED_AS = {"scikit-learn": "sklearn", "ai-edge-litert": "ai_edge_litert", "litert-torch": "litert_torch"}
PROGRAM = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed: its import fails
from dwindle.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    names = {line.split(">")[0].split("=")[0] for line in requires("dwindle") or [] if "extra ==" in line}
    absent = [IMPORTED_AS.get(name, name) for name in names if not name.startswith("dwindle")]
    assert {"torch", "onnx", "scipy", "executorch", "coremltools"} <= set(absent)
    command = [sys.executable, "-c", PROGRAM, json.dumps(absent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def net(checkpoint: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path]) -> Path:
    export("onnx", *onnx_files)
    return checkpoint.path


@pytest.mark.parametrize(
    "arguments",
    [
        ("gate", "NET", "--max-size", "1MB", "--why"),
        ("gate", "FILE", "--max-size", "1MB", "--why", "--baseline", "FILE"),
        ("gate", "FILE", "--max-size", "1MB", "--history", "LOG", "--page", "PAGE"),
        ("show", "NET"),
        ("verify", "EXPORT"),
        ("card", "NET"),
        ("diff", "NET", "NET"),
        ("report", "NET"),
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_a_command_needs_no_extra(arguments: tuple[str, ...], net: Path, tmp_path: Path) -> None:
    file = shutil.copy(net / "exports/onnx/net.onnx", tmp_path / "some.onnx")
    paths = {"NET": net, "FILE": file, "LOG": tmp_path / "gate.jsonl", "PAGE": tmp_path / "trend.html"}
    paths["EXPORT"] = net / "exports/onnx/net.onnx"
    done = run(*(str(paths.get(one, one)) for one in arguments))
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
