from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dwindle.bench import Bench, gate
from dwindle.bench.result import COMPRESSED, Accuracy, Machine, Row, RuntimeUsed, blank_rows, unmeasured
from dwindle.checkpoint import Checkpoint
from dwindle.errors import CheckpointError, UsageError
from dwindle.manifest import Manifest, manifests

Export = Callable[..., Manifest]
Save = Callable[..., None]


@pytest.fixture
def manifest(export: Export, tmp_path: Path) -> Manifest:
    dense, compressed = tmp_path / "dense.onnx", tmp_path / "net.onnx"
    dense.write_bytes(bytes(20_000))
    compressed.write_bytes(bytes(11_000))
    return export("onnx", dense, compressed)


@pytest.fixture
def benched(checkpoint: Checkpoint, manifest: Manifest) -> Save:
    """Saves a bench.json that says these accuracies, per runtime: (dense, compressed)."""

    def save(**accuracies: tuple[float, float | None]) -> None:
        rows: list[Row] = []
        for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)):
            for runtime, values in accuracies.items():
                for row, value in zip(pair, values, strict=True):
                    row = replace(row, runtime=RuntimeUsed(runtime, "1", 1))
                    found = value and Accuracy("accuracy", value, 1000, None, "test")
                    rows.append(replace(row, accuracy=found) if found else unmeasured(row, "no such hardware"))
        machine = Machine("cpu", 2, "Linux")
        Bench(tuple(rows), machine, 0, "2026-01-01T00:00:00+00:00", "0.1.0").save(checkpoint.bench_path)

    return save


def test_limits_that_hold(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.3, 96.3))
    verdict = gate(checkpoint.path, max_size=11_000, max_drop=1.0)  # 97.3 - 96.3 > 1.0 in binary
    assert verdict.passed
    assert verdict.exit_code == 0
    assert [(row.name, row.target) for row in verdict.rows] == [("max_size", "onnx"), ("max_drop", "onnx")]
    assert verdict.rows[0].measured == 11_000
    assert verdict.rows[1].measured == pytest.approx(1.0)


@pytest.mark.parametrize(("limits", "missed"), [({"max_size": 10_999}, 11_000), ({"max_drop": 0.9}, 1.0)])
def test_a_miss_is_exit_code_3(checkpoint: Checkpoint, benched: Save, limits: dict[str, float], missed: float) -> None:
    benched(onnxruntime=(97.3, 96.3))
    verdict = gate(checkpoint, **limits)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.exit_code == 3
    assert verdict.rows[0].measured == pytest.approx(missed)


def test_the_worst_runtime_counts(checkpoint: Checkpoint, benched: Save) -> None:
    benched(good=(97.0, 97.0), bad=(97.0, 90.0), elsewhere=(97.0, None))
    (row,) = gate(checkpoint, max_drop=1.0).rows
    assert row.measured == pytest.approx(7.0)
    assert "in bad" in str(row.reason)


def test_a_gain_is_no_drop(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(96.0, 97.0))
    assert gate(checkpoint, max_drop=0).passed


def unmeasured_reason(checkpoint: Checkpoint, **arguments: object) -> str:
    verdict = gate(checkpoint, **arguments)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.exit_code == 5
    assert verdict.unmeasured
    return str(verdict.unmeasured[0].reason)


def test_a_figure_that_is_absent_is_never_a_pass(checkpoint: Checkpoint, benched: Save) -> None:
    assert "run `dwindle bench`" in unmeasured_reason(checkpoint, max_drop=50.0)
    benched(onnxruntime=(97.0, None))
    assert unmeasured_reason(checkpoint, max_drop=50.0) == "no such hardware"
    export_hint = "there is no coreml file: run `dwindle export --target coreml`"
    assert unmeasured_reason(checkpoint, max_size=10**9, target="onnx,coreml") == export_hint
    assert unmeasured_reason(checkpoint, max_drop=50.0, target="coreml") == export_hint
    # beside a miss as well: the whole answer is not known
    assert unmeasured_reason(checkpoint, max_size=1, max_drop=50.0) == "no such hardware"


def test_figures_of_other_files_do_not_count(checkpoint: Checkpoint, benched: Save, manifest: Manifest) -> None:
    benched(onnxruntime=(97.0, 97.0))
    assert gate(checkpoint, max_drop=1.0).passed
    for name in ("net.onnx", "dense.onnx"):
        folder = checkpoint.exports / "onnx"
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(b"exported again")
        file, dense = (type(manifest.file).of(folder / n) for n in ("net.onnx", "dense.onnx"))
        replace(manifest, file=file, dense=dense).write(folder)
        assert "about other files" in unmeasured_reason(checkpoint, max_drop=1.0)
        (folder / name).write_bytes(before)
        manifest.write(folder)


def test_the_target_it_was_compressed_for_is_the_default(
    checkpoint: Checkpoint, benched: Save, export: Export, tmp_path: Path
) -> None:
    export("executorch", tmp_path / "dense.onnx", tmp_path / "net.onnx")
    (row,) = gate(replace(checkpoint, origin={"target": "executorch"}), max_size=20_000).rows
    assert row.target == "executorch"
    (row,) = gate(replace(checkpoint, origin={}), max_size=20_000).rows
    assert row.target == "onnx"
    rows = gate(checkpoint, max_size=20_000, target="onnx, executorch").rows
    assert [row.target for row in rows] == ["onnx", "executorch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to check: give --max-size, --max-drop or both"),
        ({"max_size": 0}, "not a size"),
        ({"max_drop": -1.0}, "not a drop"),
        ({"max_drop": float("nan")}, "not a drop"),
        ({"max_size": 1, "target": "onxn"}, "unknown target 'onxn': did you mean 'onnx'"),
        ({"max_size": 1, "target": "onnx,"}, "unknown target ''"),
    ],
)
def test_a_request_that_makes_no_sense(checkpoint: Checkpoint, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gate(checkpoint, **arguments)  # type: ignore[arg-type]


def test_damage_is_an_error_not_a_verdict(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 97.0))
    checkpoint.bench_path.write_text("{")
    with pytest.raises(CheckpointError, match=r"bench\.json is missing or damaged"):
        gate(checkpoint, max_drop=1.0)
    (checkpoint.exports / "onnx" / "net.onnx").write_bytes(b"altered")
    with pytest.raises(CheckpointError, match="not the file its manifest describes"):
        gate(checkpoint, max_size=1)


def test_compressed_rows_are_found_by_role(checkpoint: Checkpoint, benched: Save) -> None:
    benched(onnxruntime=(97.0, 96.0))
    (row,) = Bench.load(checkpoint.bench_path).find("onnx", COMPRESSED)
    assert row.accuracy is not None
    assert row.accuracy.value == 96.0
