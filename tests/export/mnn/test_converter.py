"""MNN's Python package reports conversions to its maker, and installs what it needs for that, when `MNN.tools` is
imported. None of it may happen."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.errors import UsageError
from dwindle.export.mnn import converter
from dwindle.export.mnn.graph import _onnx

pytestmark = pytest.mark.needs("mnn")


def in_a_process(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def onnx() -> bytes:
    return _onnx(nn.Conv2d(3, 8, 3).eval().requires_grad_(False), (torch.zeros(1, 3, 8, 8),))


@pytest.mark.slow
def test_a_conversion_opens_no_socket_starts_no_program_and_installs_nothing(onnx: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx)
    before = {each.metadata["Name"] for each in distributions()}
    code = """
import json, sys
events = set()
sys.addaudithook(lambda event, _: events.add(event))
from dwindle.export.mnn import converter
events.clear()
converter.main()
watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "urllib.")
print()
print(json.dumps({
    "events": [event for event in events if event.startswith(watched)],
    "modules": [name for name in sys.modules if name.split(".")[0] in ("MNN", "aliyun", "pip")],
}))
"""
    said = json.loads(in_a_process(code, str(tmp_path / "net.onnx"), str(tmp_path / "net.mnn")))
    assert said == {"events": [], "modules": []}
    assert (tmp_path / "net.mnn").stat().st_size > 1000
    assert {each.metadata["Name"] for each in distributions()} == before


@pytest.mark.parametrize(
    "what",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "import MNN.tools.utils.log",
    ],
)
def test_what_tries_to_is_stopped(what: str) -> None:
    code = f"""
from dwindle.export.mnn import converter
converter.isolate()
try:
    {what}
    print("done")
except PermissionError as error:
    print("stopped")
"""
    assert in_a_process(code) == "stopped"


@pytest.mark.needs("Linux")
def test_native_code_has_no_network_either() -> None:
    """Of this machine's network interfaces its process has none; a system that forbids namespaces is let off."""
    code = """
import ctypes
from dwindle.export.mnn import converter
allowed = ctypes.CDLL(None).unshare(0x50000000) == 0
converter.isolate()
names = [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line]
print(names if allowed else ["lo"])
"""
    assert in_a_process(code) == "['lo']"


def test_a_file_that_it_refuses_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        converter.convert(b"not a model", "Net")
    assert (refused.value.code, refused.value.name) == ("not-convertible", "Net")
