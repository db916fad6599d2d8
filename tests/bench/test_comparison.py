import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from dwindle.bench import Bench, diff
from dwindle.bench.baseline import network
from dwindle.bench.comparison import Change, Figure, Value
from dwindle.bench.result import COMPRESSED, Accuracy, Compare, Cost, Machine, Row
from dwindle.bench.rows import blank_rows
from dwindle.bench.views.diff_table import diff_table
from dwindle.checkpoint import Checkpoint, finish, start
from dwindle.cli import main
from dwindle.errors import CheckpointError
from dwindle.manifest import Manifest, manifests
from dwindle.mask_files import pack_masks
from dwindle.record import Round

Export = Callable[..., Manifest]


def measured(row: Row) -> Row:
    cost = Cost({"all": 1_200_000}, None, 10, None, None, None, None, "onnxruntime 1", "qemu-user 10", "cortex-a76")
    return replace(
        row,
        runtime=replace(row.runtime, name="onnxruntime"),
        accuracy=Accuracy("accuracy", 96.3, 360, (93.8, 97.8), "test"),
        compare=Compare("exports/onnx/dense.onnx", 0.8, (0.78, 0.82), "median") if row.role == COMPRESSED else None,
        cost=cost if row.role == COMPRESSED else None,
    )


@pytest.fixture
def before(checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]) -> Checkpoint:
    """Exported and measured."""
    export("onnx", *onnx_files)
    rows = [measured(row) for pair in blank_rows(checkpoint.path, manifests(checkpoint.exports)) for row in pair]
    bench = Bench(tuple(rows), Machine("CPU", 2, "Linux"), 0, "2026-01-01", "0.1", network(checkpoint))
    bench.save(checkpoint.bench_path)
    return checkpoint


@pytest.fixture
def after(tmp_path: Path, nets: tuple[nn.Module, nn.Module]) -> Checkpoint:
    """Cut to half its channels, neither exported nor measured."""
    origin = {"model": {"spec": "blobs:net"}, "task": {"task": "blobs:Blobs"}, "target": "onnx", "macs": "50%"}
    fresh = replace(
        start(tmp_path / "other.dwindle", origin), done=True, history=(Round(0, 0.15, 6_000, 95.0, 0.1, 1.0),)
    )
    slim = {name: tensor[:4] if name == "0.weight" else tensor for name, tensor in nets[1].state_dict().items()}
    tensors = {"weights": slim, "dense": nets[0].state_dict(), "masks": pack_masks({"3.weight": slim["3.weight"] != 0})}
    return finish(replace(fresh, metrics={"test": 95.5}), tensors, {"shapes": {"0.weight": [4, 1, 3, 3]}})


def test_each_figure_stands_beside_the_others_or_beside_nothing(before: Checkpoint, after: Checkpoint) -> None:
    found = diff(before, after.path)
    figures = {(figure.name, figure.target, figure.runtime): figure for figure in found.figures}
    assert list(dict.fromkeys(name for name, _, _ in figures)) == [
        "density", "accuracy", "size", "download", "ratio", "cost",
    ]  # fmt: skip
    assert figures["density", None, None] == Figure("density", None, None, Value(0.3), Value(0.15))
    assert figures["accuracy", None, None] == Figure("accuracy", None, None, Value(96.5), Value(95.5))
    in_file = figures["accuracy", "onnx", "onnxruntime"]
    assert (in_file.before, in_file.after) == (Value(96.3, (93.8, 97.8)), None)
    assert figures["ratio", "onnx", "onnxruntime"].before == Value(0.8, (0.78, 0.82))
    assert figures["cost", "onnx", "onnxruntime"].before == Value(1_200_000)
    assert found.stored == ()
    size = (before.exports / "onnx" / "net.onnx").stat().st_size
    assert figures["size", "onnx", None].before == Value(size)


def test_files_that_store_weights_otherwise_are_told_apart(before: Checkpoint, tmp_path: Path) -> None:
    other = Path(shutil.copytree(before.path, tmp_path / "int4.dwindle"))
    ((folder, manifest),) = manifests(other / "exports")
    replace(manifest, encoding="bitmask + int4 survivors").write(folder)
    found = diff(before, other)
    assert found.stored == (Change("onnx", "bitmask + fp32 survivors", "bitmask + int4 survivors"),)
    assert main(["diff", str(before.path), str(other)]) == 0


def test_layers_and_options_are_those_that_differ(before: Checkpoint, after: Checkpoint) -> None:
    found = diff(before, after)
    assert found.layers == (Change("0", (8, 1, 3, 3), (4, 1, 3, 3)),)
    assert found.options == (Change("size", 12_000, None), Change("macs", None, "50%"))
    assert found.networks == ("blobs:net on blobs:Blobs",) * 2


def test_a_checkpoint_does_not_differ_from_itself(before: Checkpoint) -> None:
    found = diff(before, before)
    assert found.layers == found.options == ()
    assert all(figure.before == figure.after is not None for figure in found.figures)


def test_figures_of_other_files_than_the_exported_ones_are_left_out(
    before: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", *reversed(onnx_files))
    assert {figure.name for figure in diff(before, before).figures if figure.target} == {"size", "download"}


def test_the_table_fits_a_terminal_of_80(before: Checkpoint, after: Checkpoint) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(diff_table(diff(before, after)))
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["net.dwindle", "other.dwindle", "change"]
    text = " ".join(capture.get().split())
    assert "test accuracy, in PyTorch 96.50 95.50 −1.00 points" in text
    assert "test accuracy, onnx in onnxruntime 96.30 – 93.8–97.8" in text
    assert "time / dense, onnx in onnxruntime 0.800 – 0.780–0.820" in text
    assert "0 8×1×3×3 4×1×3×3 −50.0%" in text
    assert "macs – 50%" in text
    assert "different networks" not in text
    console = Console(width=80)
    with console.capture() as capture:
        console.print(diff_table(replace(diff(before, after), networks=("one on a", "two on b"))))
    assert "these are different networks: one on a, and two on b" in " ".join(capture.get().split())


def test_on_the_command_line(before: Checkpoint, after: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(before.path), str(after.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layers"] == [{"name": "0", "before": [8, 1, 3, 3], "after": [4, 1, 3, 3]}]
    assert main(["diff", str(before.path), "nothing"]) == 1
    assert capsys.readouterr().err.startswith("dwindle: nothing is not a checkpoint")
    with pytest.raises(CheckpointError):
        diff(before, "nothing")
