"""ARM64 cost beside the times: counted on the real file, kept between runs, refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwindle.bench import Bench, bench, cost
from dwindle.bench.devices import emulator, sysroot
from dwindle.bench.devices.registry import reach
from dwindle.bench.missing import Missing
from dwindle.bench.process import WorkerFailed
from dwindle.bench.result import COMPRESSED, DENSE, Cost
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import ParityFailed, RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest, manifests

Export = Callable[..., Manifest]
pytestmark = pytest.mark.usefixtures("short_slices")
needs_emulation = pytest.mark.needs("arm64")
NETWORK_MACS = 8 * 8 * 8 * 9 + 512 * 10
"""Of the tests' network: a 3x3 convolution of 8 channels on 8x8, and a linear layer."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, nets: tuple[nn.Module, nn.Module]) -> dict[str, Any]:
    """Counts that need no emulation, for what becomes of them: how many, by the file's name, and the outputs."""
    said: dict[str, Any] = {"dense.onnx": 1000, "net.onnx": 400, "off": 0.0}

    def count(path: Path, target: str, inputs: list[np.ndarray], **options: Any) -> emulator.Count:
        if path.name not in said:
            raise WorkerFailed(f"{path.name} on an emulated {sysroot.CPU} crashed (SIGSEGV)", path)
        with torch.no_grad():
            output = nets[path.name != "dense.onnx"](torch.from_numpy(inputs[0])).numpy()
        kinds = dict.fromkeys(emulator.CLASSES, said[path.name])
        return emulator.Count(kinds, 4 * said[path.name], [output + said["off"]], "onnxruntime 1", "qemu-user 7")

    monkeypatch.setattr(sysroot, "missing", lambda: None)
    monkeypatch.setattr(emulator, "count", count)
    return said


def costs(found: Bench, target: str = "onnx") -> tuple[Cost, Cost]:
    rows = [found.find(target, role)[0].cost for role in (DENSE, COMPRESSED)]
    assert rows[0] is not None
    assert rows[1] is not None
    return rows[0], rows[1]


@pytest.mark.slow
@needs_emulation
def test_a_real_file_is_counted(
    checkpoint: Checkpoint, export: Export, pte_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernels of both machines agree, and no layer's work goes uncounted."""
    export("executorch", *pte_files)
    knowing = replace(checkpoint, history=tuple(replace(one, macs=NETWORK_MACS) for one in checkpoint.history))
    said: list[str] = []
    dense, compressed = costs(bench(knowing, devices=["arm64"], sparse=True, progress=said.append), "executorch")
    for one in (dense, compressed):
        assert NETWORK_MACS <= one.macs < 4 * NETWORK_MACS  # one input channel is worked on like four
        assert one.network_macs == NETWORK_MACS
        assert one.relative is not None
        assert one.relative < 1e-5
        assert set(one.instructions) == set(emulator.CLASSES)
    assert dense.ratio is dense.sparse is None
    assert compressed.ratio == compressed.instructions["all"] / dense.instructions["all"]
    assert compressed.sparse is not None
    assert "net.pte on an emulated cortex-a76: starting" in said

    assert main(["bench", str(checkpoint.path), "--device", "arm64", "--json"]) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)["rows"][1]["cost"]
    assert again["instructions"]["all"] == pytest.approx(compressed.instructions["all"], rel=1e-3)
    assert "not a time" in " ".join(err.split())


@pytest.mark.slow
def test_times_and_costs_are_kept_for_each_other(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any]
) -> None:
    export("onnx", *onnx_files)
    before = bench(checkpoint)
    row = before.find("onnx", COMPRESSED)[0]
    assert row.cost is None
    assert row.reasons["cost"] == f"not counted yet: run `dwindle bench {checkpoint.path} --device arm64`"

    after = bench(checkpoint, devices=["arm64"])
    dense, compressed = costs(after)
    assert (dense.instructions["all"], compressed.instructions["all"]) == (1000, 400)
    assert compressed.ratio == 0.4
    assert after.made == before.made  # the times are still those of then
    for old, new in zip(before.rows, after.rows, strict=True):
        assert (new.latency, new.accuracy, new.runtime) == (old.latency, old.accuracy, old.runtime)
        assert "cost" not in new.reasons
    assert Bench.load(checkpoint.bench_path) == after

    again = bench(checkpoint)
    assert costs(again) == (dense, compressed)
    for old, new in zip(after.rows, again.rows, strict=True):
        assert new.reasons["cost.network_macs"] == old.reasons["cost.network_macs"]
    assert again.made > before.made


def test_another_file_has_no_cost_yet(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any]
) -> None:
    export("onnx", *onnx_files)
    bench(checkpoint, devices=["arm64"])
    export("onnx", onnx_files[0], onnx_files[0])
    assert cost.earlier(checkpoint, manifests(checkpoint.exports))[1][1].cost is None


@pytest.mark.slow
def test_both_devices_at_once(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any]
) -> None:
    export("onnx", *onnx_files)
    found = bench(checkpoint, devices=["host", "arm64"])
    for row in found.rows:
        assert row.latency is not None
        assert row.cost is not None
        assert row.cost.network_macs is None
        assert "cost.network_macs" in row.reasons


def test_costs_alone_say_what_is_missing(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any], tmp_path: Path
) -> None:
    export("onnx", *onnx_files)
    export("coreml", *onnx_files)
    found = bench(checkpoint, devices=["arm64"])
    for row in found.rows:
        assert row.latency is None
        assert row.reasons["latency"] == f"not measured on this machine yet: run `dwindle bench {checkpoint.path}`"
    assert found.find("coreml", DENSE)[0].reasons["cost"] == "no ARM64 runtime here runs coreml files"
    assert reach("arm64").failure(found) is None  # nothing there could have counted it


def test_a_file_that_fails_costs_its_own_count_only(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any]
) -> None:
    export("onnx", *onnx_files)
    del counted["net.onnx"]
    found = bench(checkpoint, devices=["arm64"])
    assert found.find("onnx", DENSE)[0].cost is not None
    wrong = reach("arm64").failure(found)
    assert isinstance(wrong, RuntimeUnavailable)
    assert (wrong.code, wrong.name, wrong.path) == ("unmeasured", "arm64", Path("exports/onnx/net.onnx"))
    assert "net.onnx on an emulated cortex-a76 crashed" in str(wrong)
    assert main(["bench", str(checkpoint.path), "--device", "arm64"]) == RuntimeUnavailable.exit_code


def test_an_interrupted_count_keeps_what_it_has(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    counted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export("onnx", *onnx_files)
    whole = emulator.count

    def interrupted(path: Path, *rest: Any, **options: Any) -> emulator.Count:
        if path.name == "net.onnx":
            raise KeyboardInterrupt
        return whole(path, *rest, **options)

    monkeypatch.setattr(emulator, "count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(checkpoint, devices=["arm64"])
    dense, compressed = Bench.load(checkpoint.bench_path).rows
    assert dense.cost is not None
    assert compressed.cost is None
    assert "cost" in compressed.reasons


@pytest.mark.slow
def test_a_file_that_computes_something_else_there_fails(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], counted: dict[str, Any]
) -> None:
    export("onnx", *onnx_files)
    counted["off"] = 0.5
    wrong = reach("arm64").failure(bench(checkpoint, devices=["arm64"]))
    assert isinstance(wrong, ParityFailed)
    assert (wrong.code, wrong.name, wrong.path) == ("parity", "arm64", Path("exports/onnx/dense.onnx"))
    assert main(["bench", str(checkpoint.path), "--device", "arm64"]) == ParityFailed.exit_code
    counted["off"] = float("nan")
    wrong = reach("arm64").failure(bench(checkpoint, devices=["arm64"]))
    assert isinstance(wrong, RuntimeUnavailable)
    assert wrong.code == "unmeasured"
    assert "not finite" in str(wrong)


def test_without_the_emulation_nothing_is_measured_and_the_command_is_named(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    export("onnx", *onnx_files)
    monkeypatch.setattr(sysroot, "missing", lambda: Missing("it is not set up", sysroot.SETUP))
    assert main(["bench", str(checkpoint.path), "--device", "host,arm64"]) == RuntimeUnavailable.exit_code
    assert capsys.readouterr().err == "dwindle: arm64: it is not set up: run `dwindle doctor --setup arm64`\n"
    assert not checkpoint.bench_path.exists()


def test_devices_and_options_that_cannot_be(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="did you mean 'arm64'") as refused:
        bench(checkpoint, devices=["arm46"])
    assert (refused.value.code, refused.value.name) == ("unknown-name", "arm46")
    with pytest.raises(UsageError, match="arm64") as refused:
        bench(checkpoint, sparse=True)
    assert (refused.value.code, refused.value.option) == ("no-effect", "sparse")
    assert main(["bench", str(checkpoint.path), "--sparse"]) == UsageError.exit_code
