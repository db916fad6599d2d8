"""What a profile predicts of exported files stands beside what was measured, or a sentence says why it doesn't."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench import Bench, bench, report
from dwindle.bench.machine import this_machine
from dwindle.bench.prices.exported import predict, predictions
from dwindle.bench.prices.predicting import Predictor, shipped
from dwindle.bench.result import COMPRESSED, DENSE, Latency, RuntimeUsed
from dwindle.bench.rows import blank_rows
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import CheckpointError, UsageError
from dwindle.manifest import Manifest, manifests
from dwindle.price import Shape, shapes_of, tally
from dwindle.sealed import sealed_json
from tests.bench.prices.test_profile import made

Export = Callable[..., Manifest]
DENSE_LAYERS = tally([Shape(64, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))] * 12)
LAYERS = tally([Shape(32, 32, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))] * 12)


@pytest.fixture
def manifest(checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]) -> Manifest:
    """Which says of two small files that they have a dozen layers, half of whose channels are gone."""
    found = replace(export("onnx", *onnx_files), layers=LAYERS, dense_layers=DENSE_LAYERS)
    found.write(checkpoint.exports / "onnx")
    return found


def of_this_machine(**changes: Any) -> Any:
    here = {"device": "host", "machine": this_machine(), "runtime": "onnxruntime", "version": version("onnxruntime")}
    return made(**here | changes)


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices", "manifest")
def test_predicted_stands_beside_measured(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = of_this_machine()
    profile.save(tmp_path / "phone.json")
    assert main(["bench", str(checkpoint.path), "--on", str(tmp_path / "phone.json"), "--json"]) == 0
    out, table = capsys.readouterr()
    found = Bench.load(checkpoint.bench_path)
    assert json.loads(out)["predicted"] == json.loads(json.dumps([asdict(one) for one in found.predicted]))
    dense, compressed = found.predicted
    (row,) = found.find("onnx", COMPRESSED)
    assert (dense.role, compressed.role, compressed.path) == (DENSE, COMPRESSED, row.artifact.path)
    expected = Predictor(profile, "fp32").network(shapes_of(LAYERS))
    assert (compressed.ms, compressed.interval) == (expected.ms, (expected.low, expected.high))
    assert dense.ms is not None
    assert dense.ms > expected.ms
    assert row.latency is not None
    assert compressed.measured == row.latency.cpu_median
    assert compressed.ratio == expected.ms / (row.latency.cpu_median or 0)
    page = report(checkpoint).read_text("utf-8")
    for shown in (table, page):
        assert "redicted on host" in shown
        assert f"{compressed.ratio:.3f}" in shown
    assert bench(checkpoint).predicted == ()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"target": "litert"}, "other-target"),
        ({"version": "0.1"}, "other-version"),
        ({"timed": ()}, "other-precision"),
    ],
)
def test_a_profile_of_something_else_predicts_nothing(manifest: Manifest, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as refused:
        predict(of_this_machine(**changes), "phone.json", manifest)
    assert refused.value.code == code


def test_a_file_of_unknown_layers_is_not_predicted(manifest: Manifest) -> None:
    with pytest.raises(UsageError) as refused:
        predict(of_this_machine(), "phone.json", replace(manifest, layers={}))
    assert (refused.value.code, refused.value.path) == ("no-layers", Path("net.onnx"))


def test_each_file_is_predicted_at_its_own_precision(manifest: Manifest) -> None:
    other = replace(manifest, precision="int8", dense_precision="fp32", dense_layers=None)
    expected = Predictor(made(), "fp32").network(shapes_of(manifest.layers))
    assert predict(made(), "phone.json", other, DENSE) == expected
    with pytest.raises(UsageError):
        predict(made(), "phone.json", other)


LATENCY = Latency(1, 1, 4.0, 5.0, 6.0, 4.0, 4.5, 6, 4, 9)


@pytest.mark.parametrize(
    ("changes", "used", "measured"),
    [
        ({}, {}, 4.5),
        ({"clock": "wall time"}, {}, 5.0),
        ({"threads": 4}, {}, None),
        ({"machine": replace(this_machine(), cpu="another")}, {}, None),
        ({"device": "ssh://pi@board"}, {}, None),
        ({"device": "ssh://pi@board"}, {"device": "ssh://pi@board", "machine": this_machine()}, 4.5),
        ({"device": "x86", "source": "measured on one of that kind"}, {}, 4.5),
        ({"device": "x86", "source": "s", "machine": replace(this_machine(), cpu="another")}, {}, None),
    ],
)
def test_only_the_profiles_own_device_was_measured(
    checkpoint: Checkpoint, manifest: Manifest, changes: dict[str, Any], used: dict[str, Any], measured: float | None
) -> None:
    exported = manifests(checkpoint.exports)
    rows = [
        replace(row, latency=LATENCY, runtime=RuntimeUsed("onnxruntime", "1", 1, **used))
        for pair in blank_rows(checkpoint.path, exported)
        for row in pair
    ]
    found = Bench(tuple(rows), this_machine(), 0, "2026-01-01T00:00:00+00:00", "0.1.0")
    profile = of_this_machine(**changes)
    told = predictions(found, exported, profile, "phone.json")
    assert [one.measured for one in told] == [measured, measured]
    assert all(one.ms and one.reason is None and one.note == profile.source for one in told)


def test_what_is_not_predicted_has_its_reason(checkpoint: Checkpoint, manifest: Manifest) -> None:
    exported = manifests(checkpoint.exports)
    rows = tuple(row for pair in blank_rows(checkpoint.path, exported) for row in pair)
    found = Bench(rows, this_machine(), 0, "2026-01-01T00:00:00+00:00", "0.1.0")
    for one in predictions(found, exported, of_this_machine(target="litert"), "phone.json"):
        assert (one.ms, one.interval, one.measured, one.ratio) == (None, None, None, None)
        assert one.reason


@pytest.mark.usefixtures("manifest")
def test_no_profile_is_said_before_anything_is_measured(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        bench(checkpoint, on=str(tmp_path / "nowhere.json"))
    assert refused.value.option == "on"
    assert all(name in str(refused.value) for name in shipped())
    assert not checkpoint.bench_path.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices", "manifest")
def test_a_prediction_outside_of_its_interval_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    of_this_machine().save(tmp_path / "phone.json")
    found = bench(checkpoint, on=str(tmp_path / "phone.json"))
    ms = found.predicted[0].ms or 0.0
    odd = replace(found.predicted[0], interval=(2 * ms, 3 * ms))
    checkpoint.bench_path.write_text(json.dumps(sealed_json(asdict(replace(found, predicted=(odd,))))), "utf-8")
    with pytest.raises(CheckpointError) as refused:
        Bench.load(checkpoint.bench_path)
    assert refused.value.code == "implausible"
