"""The whole way, as a newcomer goes it: minutes, not seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dwindle.checkpoint import Checkpoint
from dwindle.cli import main

pytestmark = pytest.mark.slow


def test_the_demo_reaches_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    said = capsys.readouterr().err
    assert "every limit holds" in said
    net = Checkpoint.load(tmp_path / "demo.dwindle")
    dense, last = net.history[0], net.history[-1]
    assert dense.bytes is not None
    assert last.bytes is not None
    assert dense.bytes >= 10 * last.bytes
    assert last.validation >= dense.validation - 1
    targets = {path.parent.name for path in net.exports.glob("*/manifest.json")}
    assert targets == {"onnx", "coreml", "executorch"}
    rows = json.loads(net.bench_path.read_text())["rows"]
    assert {row["runtime"]["name"] for row in rows if row["accuracy"]} >= {"onnxruntime", "executorch", "coreml"}
    assert "<svg" in (net.path / "report.html").read_text()


@pytest.mark.needs("fashion-mnist")
def test_fashion_mnist_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["compress", "zoo:resnet8", "--data", "fashion-mnist", "--size", "60KB", "--rounds", "1"]
    assert main([*command, "--epochs", "1", "-o", "net.dwindle"]) == 0
    net = Checkpoint.load(tmp_path / "net.dwindle")
    assert net.metrics["test"] > 75
    assert main(["export", "net.dwindle", "--target", "onnx"]) == 0
    file = net.exports / "onnx/net.onnx"
    assert 0.99 * 60_000 <= file.stat().st_size <= 60_000
