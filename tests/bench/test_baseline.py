import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dwindle.bench import Bench
from dwindle.bench.baseline import network, read_baseline
from dwindle.bench.result import Machine
from dwindle.bench.rows import blank_rows
from dwindle.checkpoint import Checkpoint
from dwindle.errors import UsageError
from dwindle.manifest import Manifest, manifests


@pytest.fixture
def measured(checkpoint: Checkpoint, export: Callable[..., Manifest], onnx_files: tuple[Path, Path]) -> Bench:
    export("onnx", *onnx_files)
    rows = tuple(row for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)) for row in pair)
    return Bench(rows, Machine("cpu", 2, "Linux"), 0, "2026-01-01", "0.1", network(checkpoint))


def test_a_network_is_known_by_its_model_and_data(checkpoint: Checkpoint) -> None:
    assert network(checkpoint) == "blobs:net on blobs:Blobs"
    origin = {"model": {"spec": "zoo:resnet8"}, "task": {"data": "digits", "epochs": 3}, "density": 0.1}
    assert network(replace(checkpoint, origin=origin)) == "zoo:resnet8 on digits"


def test_a_bench_and_its_checkpoint_say_the_same(checkpoint: Checkpoint, measured: Bench, tmp_path: Path) -> None:
    measured.save(tmp_path / "main.json")
    compressed = checkpoint.exports / "onnx" / "net.onnx"
    assert read_baseline(tmp_path / "main.json", checkpoint).bytes == {"onnx": compressed.stat().st_size}
    assert read_baseline(tmp_path / "main.json", checkpoint) == read_baseline(checkpoint.path, checkpoint)


def refused(path: Path, of: Checkpoint) -> str:
    with pytest.raises(UsageError) as raised:
        read_baseline(path, of)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_what_is_no_baseline_of_this_network_is_refused(
    checkpoint: Checkpoint, measured: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "main.json"
    assert "no baseline at" in refused(path, checkpoint)
    replace(measured, network="zoo:resnet20 on cifar10").save(path)
    assert "is of zoo:resnet20 on cifar10, and" in refused(path, checkpoint)
    replace(measured, network="").save(path)
    assert "nobody knows" in refused(path, checkpoint)
    replace(measured, schema=7).save(path)
    assert "has schema 7, not 1" in refused(path, checkpoint)
    path.write_text(json.dumps({"rows": []}))
    assert "`dwindle bench` again" in refused(path, checkpoint)
    assert "is not a checkpoint" in refused(tmp_path, checkpoint)
    other = replace(checkpoint, origin={"model": {"spec": "zoo:resnet8"}, "task": {"data": "digits"}})
    assert "of zoo:resnet8 on digits" in refused(checkpoint.path, other)
