import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import onnx
import onnx.helper
import pytest
from torch import nn

from dwindle.bench import Bench, bench, cost, report
from dwindle.bench.figures import Files
from dwindle.bench.machine import this_machine
from dwindle.bench.result import COMPRESSED, DENSE, Row
from dwindle.checkpoint import Checkpoint
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.manifest import Manifest, manifests
from dwindle.sealed import sealed_json

Export = Callable[..., Manifest]
pytestmark = pytest.mark.usefixtures("short_slices")


def one(found: Bench, target: str, role: str) -> Row:
    (row,) = found.find(target, role)
    return row


def test_a_real_file_is_measured_through_its_runtime(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    nets: tuple[nn.Module, nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from blobs import Blobs  # type: ignore[import-not-found]

    monkeypatch.setattr("dwindle.bench.measure.PROCESSES", 2)
    manifest = export("onnx", *onnx_files)
    said: list[str] = []
    found = bench(checkpoint.path, seed=3, progress=said.append)
    dense, compressed = one(found, "onnx", DENSE), one(found, "onnx", COMPRESSED)
    for row, net, file in ((dense, nets[0], manifest.dense), (compressed, nets[1], manifest.file)):
        assert row.artifact.sha256 == file.sha256
        assert (row.artifact.bytes, row.artifact.deflated_bytes) == (file.bytes, file.deflated_bytes)
        assert (row.runtime.name, row.runtime.threads) == ("onnxruntime", 1)
        assert row.accuracy is not None
        assert row.accuracy.value == Blobs().evaluate(net, "test")
        assert row.latency is not None
        assert row.latency.min > 0
        assert row.noise is not None
        assert row.compression == manifest.dense.bytes / file.bytes
    assert dense.compare is None
    assert compressed.compare is not None
    assert compressed.compare.baseline == dense.artifact.path
    labels, (before, after) = Blobs().truth, [net(Blobs().images).argmax(1) for net in nets]
    assert compressed.accuracy is not None
    assert compressed.accuracy.top1 is not None
    assert compressed.accuracy.top1.value == compressed.accuracy.value
    assert compressed.accuracy.top5 is not None
    assert compressed.agreement is not None
    assert compressed.agreement.changed == int((before != after).sum()) > 0
    assert all(before[i] != after[i] for i in compressed.agreement.samples)
    assert compressed.agreement.mcnemar.lost == int(((before == labels) & (after != labels)).sum())
    low, high = compressed.compare.ci95
    assert low <= compressed.compare.ratio <= high
    assert any("latency" in line for line in said)
    assert Bench.load(str(checkpoint.bench_path)) == found


@pytest.mark.slow
def test_executorch_files_are_run_natively_or_it_is_said_why_not(
    checkpoint: Checkpoint, export: Export, pte_files: tuple[Path, Path], nets: tuple[nn.Module, nn.Module]
) -> None:
    """Which way it was stands in the row, in the file and in the table."""
    from blobs import Blobs
    from rich.console import Console

    from dwindle.bench.runtimes.executorch import ExecuTorch
    from dwindle.bench.views.table import bench_table

    export("executorch", *pte_files)
    found = bench(checkpoint)
    through = ExecuTorch().launch(pte_files[0], 1).through
    assert through is not None
    assert (through == "native runner") == bool(shutil.which("g++"))
    for role, net in zip((DENSE, COMPRESSED), nets, strict=True):
        row = one(found, "executorch", role)
        assert row.runtime.through == through
        assert row.latency is not None
        assert row.accuracy is not None
        assert row.accuracy.value == Blobs().evaluate(net, "test")
    assert Bench.load(checkpoint.bench_path) == found
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(found))
    assert f"executorch {row.runtime.version}, {through}" in capture.get()


@pytest.mark.slow
def test_every_none_has_its_reason(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], odd_runtimes: None, tmp_path: Path
) -> None:
    export("onnx", *onnx_files)
    work, crash = tmp_path / "work", tmp_path / "crash"
    for path in (work, crash):
        path.write_text(path.name)
    export("odd", work, crash)
    export("tflite", work, crash)
    found = bench(checkpoint)
    for row in found.rows:
        for figure in ("latency", "compare", "accuracy", "agreement", "memory_bytes", "noise", "compression"):
            assert (getattr(row, figure) is None) == (figure in row.reasons), (row.target, row.role, figure)
    assert "no runtime is registered for tflite" in one(found, "tflite", DENSE).reasons.values()


@pytest.mark.slow
def test_a_crash_costs_its_own_figures_only(
    checkpoint: Checkpoint, export: Export, odd_runtimes: None, tmp_path: Path
) -> None:
    work, crash, leave = (tmp_path / how for how in ("work", "crash", "leave"))
    for path in (work, crash, leave):
        path.write_text(path.name)
    export("odd", work, crash)
    rows = {(row.runtime.name, row.role): row for row in bench(checkpoint).rows}
    assert "crashed (SIGABRT)" in rows["odd", COMPRESSED].reasons["latency"]
    assert rows["odd", DENSE].latency is not None
    assert rows["absent", DENSE].reasons["latency"] == "its hardware is elsewhere: run `buy it`"

    export("odd", crash, work)
    rows = {(row.runtime.name, row.role): row for row in bench(checkpoint).rows}
    assert rows["odd", COMPRESSED].latency is not None
    assert "dense file" in rows["odd", COMPRESSED].reasons["compare"]

    export("odd", crash, leave)
    assert all(row.latency is None for row in bench(checkpoint).rows)


@pytest.mark.slow
def test_a_hang_costs_its_own_figures_only(
    checkpoint: Checkpoint, export: Export, odd_runtimes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwindle.bench.pair.PATIENCE", 4.0)
    work, hang = (tmp_path / how for how in ("work", "hang"))
    for path in (work, hang):
        path.write_text(path.name)
    export("odd", work, hang)
    rows = {(row.runtime.name, row.role): row for row in bench(checkpoint).rows}
    assert rows["odd", DENSE].latency is not None
    for figure in ("latency", "accuracy"):
        assert "hung: no answer to 'load' within 4 s" in rows["odd", COMPRESSED].reasons[figure]
    assert Bench.load(checkpoint.bench_path).find("odd", COMPRESSED)[0].latency is None


@pytest.mark.slow
def test_a_model_that_the_task_cannot_feed_is_told_in_the_runtimes_words(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its input is another than the task's samples: three channels instead of one, or one more input."""
    for name, spoil in (("wide", _three_channels), ("two", _another_input)):
        model = onnx.load(onnx_files[1])
        spoil(model.graph)
        onnx.save(model, tmp_path / f"{name}.onnx")
        export("onnx", onnx_files[0], tmp_path / f"{name}.onnx")
        rows = {row.role: row for row in bench(checkpoint).rows}
        assert rows[DENSE].latency is not None
        assert rows[COMPRESSED].latency is rows[COMPRESSED].accuracy is None
        why = rows[COMPRESSED].reasons["latency"]
        assert why.startswith(f"onnxruntime on {name}.onnx failed: ")
        assert ("dimensions" in why) if name == "wide" else ("argument 2" in why or "shorter" in why)


def _three_channels(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3


def _another_input(graph: onnx.GraphProto) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1]))


def test_a_task_that_cannot_judge_a_file_costs_the_accuracy_only(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import blobs

    monkeypatch.setattr(blobs.Blobs, "evaluate", lambda self, model, split: model.features)
    export("onnx", *onnx_files)
    row = one(bench(checkpoint), "onnx", COMPRESSED)
    assert row.latency is not None
    assert "AttributeError" in row.reasons["accuracy"]


def test_without_exports_it_says_what_to_run(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError) as refused:
        bench(checkpoint)
    assert (refused.value.code, refused.value.path) == ("no-exports", checkpoint.path)
    assert not checkpoint.bench_path.exists()


def test_where_nothing_can_be_saved_nothing_is_measured(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", *onnx_files)
    os.mkfifo(checkpoint.bench_path)
    said: list[str] = []
    with pytest.raises(DwindleError, match=r"cannot write .*bench\.json"):
        bench(checkpoint, progress=said.append)
    assert not said


def test_an_altered_file_is_refused(checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]) -> None:
    export("onnx", *onnx_files)
    (checkpoint.exports / "onnx" / "net.onnx").write_bytes(b"another")
    with pytest.raises(CheckpointError, match=r"net\.onnx is not the file its manifest describes"):
        bench(checkpoint)
    (checkpoint.exports / "onnx" / "net.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"net\.onnx is missing: run `dwindle export` again"):
        bench(checkpoint)


def _unsealed(text: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name != "sha256"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: json.dumps(sealed_json({**_unsealed(text), "schema": 9})), "schema 9, not 1"),
        (lambda text: json.dumps({**json.loads(text), "surprise": 1}), "damaged"),
        (lambda text: text.replace('"latency"', '"lateness"', 1), "damaged"),
        (lambda text: "[]", "damaged"),
    ],
)
def test_a_damaged_bench_is_named(
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    damage: Callable[[str], str],
    message: str,
) -> None:
    from dwindle.bench.result import Machine
    from dwindle.bench.rows import blank_rows
    from dwindle.manifest import manifests

    export("onnx", *onnx_files)
    rows = tuple(row for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)) for row in pair)
    saved = Bench(rows, Machine("cpu", 2, "Linux"), 0, "2026-01-01T00:00:00+00:00", "0.1.0")
    saved.save(checkpoint.bench_path)
    assert Bench.load(checkpoint.bench_path) == saved
    checkpoint.bench_path.write_text(damage(checkpoint.bench_path.read_text()))
    with pytest.raises(CheckpointError, match=message):
        Bench.load(checkpoint.bench_path)


def test_compression_needs_the_dense_fp32_onnx(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    from dwindle.bench.rows import blank_rows

    manifest = export("onnx", *onnx_files)
    folder = checkpoint.exports / "onnx"
    ((dense, compressed),) = blank_rows(checkpoint.path, [(folder, manifest)])
    assert dense.compression == 1
    assert compressed.artifact.path == "exports/onnx/net.onnx"
    small = replace(manifest, precision="int8", dense_precision="fp32")
    ((dense, compressed),) = blank_rows(checkpoint.path, [(folder, small)])
    assert (dense.precision, compressed.precision) == ("fp32", "int8")
    assert dense.compression == 1
    ((dense, _),) = blank_rows(checkpoint.path, [(folder, replace(manifest, precision="fp16"))])
    assert dense.compression is None
    assert "fp32 ONNX" in dense.reasons["compression"]


def test_commands_that_are_suggested_can_be_pasted(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    manifest = export("onnx", *onnx_files)
    path = checkpoint.path.rename(checkpoint.path.with_name("my net's.dwindle"))
    opened = Checkpoint.load(path)
    _, rows = cost.earlier(opened, manifests(opened.exports))
    said = [reason for row in cost.with_reasons(rows, path) for reason in row.reasons.values()]
    said += [f"`{code}`" for code in re.findall("<code>(.*?)</code>", unescape(report(opened).read_text()))]
    measured = Bench(rows=tuple(rows), machine=this_machine(), seed=0, made="", dwindle="")
    said += [str(Files("onnx", None, manifest, measured, None, "apple://my phone").unmeasured)]
    shutil.rmtree(opened.exports)
    with pytest.raises(UsageError) as refused:
        bench(path)
    said += [str(refused.value)]
    suggested = {tuple(shlex.split(line)) for line in re.findall("`(dwindle (?:bench|export) [^`]*)`", " ".join(said))}
    assert suggested == {
        ("dwindle", "bench", str(path)),
        ("dwindle", "bench", str(path), "--device", "arm64"),
        ("dwindle", "bench", "--device", "apple://my phone"),
        ("dwindle", "export", str(path)),
    }


@pytest.mark.parametrize(
    ("threads", "device"), [(0, "host"), (3, "host"), (99999999999, "host"), (99999999999, "ssh://board")]
)
def test_threads_that_no_core_takes_are_refused_first(
    monkeypatch: pytest.MonkeyPatch, threads: int, device: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UsageError) as refused:
        bench("nothing", devices=(device,), threads=threads)
    assert (refused.value.code, refused.value.option) == ("out-of-range", "threads")


def test_how_many_cores_a_device_has_is_known_when_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(DwindleError) as refused:
        bench("nothing", devices=("ssh://board",), threads=3)
    assert refused.value.option is None
