"""The examples go the whole way: a user's own task is compressed, exported and judged by its own metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.compress import Request, compress
from dwindle.export import export
from dwindle.models.build import restore
from dwindle.models.tasks import restore_task

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_plain_loop_keeps_its_accuracy_at_a_fifth_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    request = Request(
        "examples.plain_loop:net", {"task": "examples.plain_loop:Loop"}, density=0.2, rounds=2, method="lr-rewind"
    )
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density == pytest.approx(0.2, abs=0.001)
    assert done.metrics["test"] > done.metrics["dense_test"] - 3


@pytest.mark.slow
def test_a_box_is_still_found_after_channels_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    task = {"task": "examples.locate:Locate", "epochs": 6}
    request = Request("examples.locate:Locator", task, macs="60%", rounds=1, target="onnx")
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].macs <= 0.6 * done.history[0].macs  # type: ignore[operator]
    assert (
        restore_task(done, trust=True).evaluate(restore(done, trust=True), "validation")
        == done.history[-1].validation
        > 80
    )
    (manifest,) = export(done, ["onnx"], trust=True)
    assert manifest.parity.relative is not None
    assert manifest.file.bytes < manifest.dense.bytes
