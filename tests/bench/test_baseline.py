import hashlib
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
from dwindle.sealed import sealed_json


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


def refused(path: Path, of: Checkpoint) -> str | None:
    """The code of the error."""
    with pytest.raises(UsageError) as raised:
        read_baseline(path, of)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    assert (raised.value.option, raised.value.path) == ("baseline", path)
    return raised.value.code


def test_what_is_no_baseline_of_this_network_is_refused(
    checkpoint: Checkpoint, measured: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "main.json"
    assert refused(path, checkpoint) == "missing"
    for other in ("zoo:resnet20 on cifar10", ""):
        replace(measured, network=other).save(path)
        assert refused(path, checkpoint) == "other-network"
    replace(measured, schema=7).save(path)
    assert refused(path, checkpoint) == "other-schema"
    path.write_text(json.dumps({"rows": []}))
    assert refused(path, checkpoint) == "unsealed"
    path.write_text(json.dumps(sealed_json({"rows": [], "schema": 1})))
    assert refused(path, checkpoint) == "field"
    refused(tmp_path, checkpoint)  # a folder that is no checkpoint
    theirs = replace(checkpoint, origin={"model": {"spec": "zoo:resnet8"}, "task": {"data": "digits"}})
    assert refused(checkpoint.path, theirs) == "other-network"


@pytest.mark.parametrize("size", ["-1", "0", "Infinity", "-Infinity", "NaN", "1e999", '"1"', "true", "1.5", "null"])
def test_a_size_that_no_file_has_is_refused_even_when_sealed_again(
    checkpoint: Checkpoint, measured: Bench, tmp_path: Path, size: str
) -> None:
    path = tmp_path / "main.json"
    measured.save(path)
    document = json.loads(path.read_text())
    del document["sha256"]
    document["rows"][1]["artifact"]["bytes"] = json.loads(size)
    text = json.dumps(document, sort_keys=True)
    path.write_text(json.dumps({**document, "sha256": hashlib.sha256(text.encode()).hexdigest()}))
    assert refused(path, checkpoint) in ("field", "damaged", "altered")
