from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import zstandard
from torch import Tensor, nn

import dwindle
from dwindle import checkpoint as checkpoints
from dwindle.checkpoint import Checkpoint
from dwindle.errors import BudgetMissed, CheckpointError, ParityFailed, UsageError
from dwindle.export import export
from dwindle.export.coreml.target import CoreML
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.onnx.target import Onnx
from dwindle.export.target_options import require_used
from dwindle.files import sha256
from dwindle.manifest import Manifest, manifests
from dwindle.models.classify import ImageClassification
from dwindle.models.zoo import resnet8
from dwindle.onnx_session import session
from dwindle.quantities import format_bytes
from dwindle.record import Round

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def checkpoint(trained: Changed, masked: Changed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished checkpoint of a ResNet-8 for the digits, at 10% density."""
    path = tmp_path_factory.mktemp("stage") / "net.dwindle"
    origin = {
        "model": {"spec": "zoo:resnet8", "classes": 10, "input_shape": [1, 8, 8]},
        "task": {"data": "digits"},
    }
    dense = trained(resnet8(in_channels=1))
    pruned = masked(copy.deepcopy(dense), 0.1)
    history = (Round(0, 1.0, None, validation=100.0, loss=None, seconds=0.0),)
    done = replace(checkpoints.start(path, origin), done=True, history=history)
    checkpoints.finish(done, {"weights": pruned.state_dict(), "dense": dense.state_dict()}, {})
    return path


def test_a_checkpoint_becomes_two_files_and_a_manifest(checkpoint: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, ["onnx", "onnx"], progress=said.append)
    folder = checkpoint / "exports" / "onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["dense.onnx", "manifest.json", "net.onnx"]
    assert manifests(checkpoint / "exports") == [(folder, manifest)]
    assert (manifest.target, manifest.precision) == ("onnx", "fp32")
    assert (manifest.layers["1>16 8x8 k3x3 p1x1"], sum(manifest.layers.values())) == (1, 10)
    assert manifest.dense_layers is None
    assert manifest.encoding == "Golomb-Rice + fp32 survivors"
    assert manifest.file.bytes == (folder / "net.onnx").stat().st_size < 50_000
    assert manifest.dense.bytes == (folder / "dense.onnx").stat().st_size > 300_000
    assert manifest.file.deflated_bytes < manifest.file.bytes
    assert manifest.preprocessing is not None
    assert (manifest.preprocessing.size, manifest.preprocessing.colours) == ((8, 8), "L")
    assert manifest.preprocessing.classes == tuple("0123456789")
    assert manifest.breakdown is not None
    assert sum(astuple(manifest.breakdown)) == manifest.file.bytes
    assert 0 < manifest.breakdown.mask < manifest.breakdown.values
    assert manifest.parity.samples == 64
    assert manifest.parity.weights_equal == 20
    assert manifest.versions["dwindle"] == dwindle.__version__
    assert manifest.versions["onnxruntime"] == version("onnxruntime")
    assert said[0] == "onnx: writing net.onnx"
    assert said[1].startswith("onnx: writing dense.onnx; about ")  # how long is left, by how long the first took
    assert said[2].startswith("onnx: 40.2 KB, dense 312 KB; within ")


@pytest.mark.slow
def test_fewer_bits_and_what_they_cost(checkpoint: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, ["onnx"], precision="int8", progress=said.append)
    assert (manifest.precision, manifest.dense_precision) == ("int8", "fp32")
    assert manifest.encoding == "Golomb-Rice + int8 survivors"
    assert manifest.file.bytes < 17_800 < 20 * manifest.file.bytes < manifest.dense.bytes * 1.2
    assert manifest.parity.relative is not None
    assert manifest.parity.relative < 1e-5
    quality = manifest.quality
    assert quality is not None
    assert quality.sqnr is not None
    assert 25 < quality.sqnr < 60
    assert quality.samples == 64
    assert (quality.top1_agreement or 0) > 0.9
    assert len(quality.tensors) == 20
    assert min(quality.tensors.values()) > 30
    assert said[-1].startswith(f"onnx: int8 against fp32: SQNR of the outputs {quality.sqnr:.1f} dB, of weights ")
    assert Manifest.read(checkpoint / "exports" / "onnx") == manifest
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["coreml"], precision="int3")
    assert (refused.value.code, refused.value.option, refused.value.name) == (
        "unknown-precision",
        "precision",
        "coreml",
    )


@pytest.mark.slow
def test_what_a_killed_export_left_goes_with_the_next_of_any_target(checkpoint: Path) -> None:
    left = checkpoint / "exports" / ".dwindle-0123456z"
    (left / "new/coreml").mkdir(parents=True)
    (left / "for").write_text("coreml")
    export(checkpoint, ["onnx"])
    assert not left.exists()


@pytest.mark.slow
def test_other_targets_get_the_precision_that_weights_were_trained_through(checkpoint: Path) -> None:
    loaded = Checkpoint.load(checkpoint)
    counted = {**loaded.origin, "target": "coreml", "precision": "palette4"}
    through = replace(loaded, origin={**counted, "qat": 0.3})
    found = export(through, ["onnx", "pytorch"])
    assert [manifest.precision for manifest in found] == ["palette4", "fp32"]  # PyTorch has no palettes
    assert [manifest.precision for manifest in export(through, ["onnx"], precision="fp32")] == ["fp32"]
    assert [manifest.precision for manifest in export(replace(loaded, origin=counted), ["onnx"])] == ["fp32"]


def test_an_unknown_target_is_refused_before_anything_is_written(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="unknown target 'onx': did you mean 'onnx'"):
        export(checkpoint, ["executorch", "onx"])
    assert not (checkpoint / "exports" / "executorch").exists()


def test_an_unfinished_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoints.start(tmp_path / "net.dwindle", {})
    with pytest.raises(UsageError, match="unfinished"):
        export(tmp_path / "net.dwindle", ["onnx"])


class Corrupting(Onnx):
    """Writes a good file, then changes one bit of it."""

    def write(self, module: nn.Module, inputs: Inputs, path: Path, *, pack: bool) -> str:
        encoding = super().write(module, inputs, path, pack=pack)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
        return encoding


@pytest.mark.slow
def test_a_rejected_file_is_kept_and_the_earlier_export_stays(
    trained: Changed, masked: Changed, example: Inputs, samples: Inputs, tmp_path: Path
) -> None:
    folder = tmp_path / "exports" / "onnx"
    dense = trained(resnet8(in_channels=1)).eval()
    pruned = masked(copy.deepcopy(dense), 0.1)
    networks = {"net": (pruned, deployable(pruned, example)), "dense": (dense, deployable(dense, example))}
    for attempt in range(2):  # without and with an earlier export
        with pytest.raises(ParityFailed) as failed:
            export_networks(networks, example, samples, folder, Corrupting())
        assert failed.value.path == folder / "net.onnx.rejected"
        assert failed.value.exit_code == 4
        assert (folder / "net.onnx.rejected").is_file()
        assert [path.name for path in folder.parent.iterdir()] == ["onnx"]
        if attempt == 0:
            assert manifests(folder.parent) == []
            good = export_networks(networks, example, samples, folder, Onnx())
            assert not (folder / "net.onnx.rejected").exists()
    assert Manifest.read(folder) == good
    assert sha256(folder / "net.onnx") == good.file.sha256


@pytest.mark.slow
def test_every_target_exports_and_silently(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = export(checkpoint, ["onnx", "executorch", "coreml"])
    assert [manifest.target for manifest in made] == ["onnx", "executorch", "coreml"]
    assert [manifest.precision for manifest in made] == ["fp32", "fp32", "fp16"]
    assert made[2].parity.weights_equal == 20
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.slow
def test_the_smallest_file_within_the_allowed_drop_is_taken(checkpoint: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, ["onnx"], precision="auto", max_drop=100.0, progress=said.append)
    assert manifest.precision == "palette1"  # the fewest bits, as every point may be lost
    assert said[0].startswith(f"onnx: palette1 ({format_bytes(manifest.file.bytes)}) loses ")
    assert manifest.quality is not None
    assert manifest.quality.tensors
    assert said[0].endswith("100 are allowed")
    with pytest.raises(BudgetMissed) as missed:
        export(checkpoint, ["onnx"], precision="auto", max_drop=1.0)  # the fixture's dense network was never wrong
    assert (missed.value.code, missed.value.option) == ("max-drop-missed", "max_drop")


@pytest.mark.slow
def test_executorch_at_w8a8_is_calibrated_judged_by_its_file_and_compressed(checkpoint: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, ["executorch"], precision="w8a8", calib_samples=16, progress=said.append)
    folder = checkpoint / "exports" / "executorch"
    assert said[0] == "executorch: calibrated on 16 samples of the training split"
    assert (manifest.precision, manifest.dense_precision, manifest.encoding) == ("w8a8", "fp32", "dense int8")
    assert manifest.parity.weights_equal == 20
    assert manifest.calibration_samples == 16
    assert manifest.quality is not None
    assert manifest.quality.samples == 64
    assert manifest.download is not None
    assert manifest.download.bytes == (folder / "net.pte.zst").stat().st_size < manifest.file.deflated_bytes
    assert zstandard.decompress((folder / "net.pte.zst").read_bytes()) == (folder / "net.pte").read_bytes()
    assert Manifest.read(folder) == manifest
    assert f"{format_bytes(manifest.download.bytes)} to download as net.pte.zst; within " in said[-2]
    (folder / "net.pte.zst").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"net\.pte\.zst is not the file its manifest describes"):
        Manifest.read(folder)


@pytest.mark.slow
def test_without_packing_the_file_is_plain(checkpoint: Path) -> None:
    (manifest,) = export(checkpoint, ["onnx"], packing="none")
    assert (manifest.packing, manifest.precision, manifest.encoding) == ("none", "fp32", "dense fp32")
    assert manifest.file.bytes == manifest.dense.bytes
    assert manifest.parity.weights_equal == 20
    assert manifest.calibration_samples is None
    model = onnx.load(checkpoint / "exports" / "onnx" / "net.onnx")
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    (packed,) = export(checkpoint, ["onnx"])
    assert (packed.packing, Manifest.read(checkpoint / "exports" / "onnx")) == ("auto", packed)


@pytest.mark.parametrize(
    ("options", "code", "option"),
    [
        ({"packing": "zip"}, "unknown-name", "packing"),
        ({"packing": "none", "precision": "auto", "max_drop": 1.0}, "conflict", "packing"),
        ({"precision": "int3"}, "unknown-precision", "precision"),
    ],
)
def test_other_packings_and_precisions_are_refused(
    checkpoint: Path, options: dict[str, Any], code: str, option: str
) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"], **options)
    assert (refused.value.code, refused.value.option) == (code, option)


@pytest.mark.slow
def test_a_file_that_a_tool_has_folded_is_seen(checkpoint: Path) -> None:
    export(checkpoint, ["onnx"], precision="palette4")
    path = checkpoint / "exports" / "onnx" / "net.onnx"
    session(path.read_bytes(), options={"optimized_model_filepath": str(path)})
    with pytest.raises(
        CheckpointError, match=r"net\.onnx .* as if a tool that folds constants had unpacked its weights"
    ):
        Manifest.read(path.parent)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"min_os": "iOS18"}, "min_os"),
        ({"calib_samples": 9}, "calib_samples"),
        ({"rounding": "calibrated"}, "rounding"),
    ],
)
def test_an_option_that_no_target_has_a_use_for_is_refused(
    checkpoint: Path, options: dict[str, Any], option: str
) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx", "pytorch"], **options)
    assert (refused.value.code, refused.value.option) == ("unused-option", option)


def test_an_option_is_fine_where_one_target_has_a_use_for_it() -> None:
    both = [Onnx(), CoreML()]
    require_used(both, "iOS18", None)
    require_used([*both, ExecuTorch("w8a8")], "iOS18", 9)
    with pytest.raises(UsageError) as refused:
        require_used([*both, ExecuTorch()], "iOS18", 9)
    assert (refused.value.code, refused.value.option) == ("unused-option", "calib_samples")


@pytest.mark.parametrize("samples", [0, -1])
def test_a_calibration_needs_samples(checkpoint: Path, samples: int) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["executorch"], precision="w8a8", calib_samples=samples)
    assert (refused.value.code, refused.value.option) == ("out-of-range", "calib_samples")


@pytest.mark.parametrize("options", [{"precision": "auto"}, {"max_drop": 1.0}, {"precision": "int8", "max_drop": 1.0}])
def test_auto_and_the_allowed_drop_go_together(checkpoint: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"], **options)
    assert (refused.value.code, refused.value.option) == ("conflict", "max_drop")


@pytest.mark.parametrize("points", [-1.0, math.nan, math.inf])
def test_a_drop_is_points(checkpoint: Path, points: float) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"], precision="auto", max_drop=points)
    assert (refused.value.code, refused.value.option) == ("out-of-range", "max_drop")


def test_without_samples_nothing_is_proven(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = {"validation": 0}
    monkeypatch.setattr(ImageClassification, "inputs", lambda self, split: (torch.zeros(empty.get(split, 1), 1, 8, 8),))
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"])
    assert (refused.value.code, refused.value.name) == ("bad-member", "inputs")


@pytest.mark.slow
def test_without_a_target_it_is_the_one_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, progress=said.append)
    assert (manifest.target, manifest.precision) == ("onnx", "fp32")
    assert said[0] == "no target is given or recorded in the checkpoint: writing onnx"
    made = checkpoints.Checkpoint.load(checkpoint)
    for target, recorded in (("pytorch", {}), ("onnx", {"precision": "int8"})):
        origin = {**made.origin, "target": target, **recorded}
        begun = checkpoints.start(tmp_path / f"{target}.dwindle", origin)
        done = replace(begun, done=True, history=made.history)
        other = checkpoints.finish(done, {"weights": made.weights, "dense": made.dense_weights}, {})
        (manifest,) = export(other, progress=said.append)
        assert (manifest.target, manifest.precision) == (target, recorded.get("precision", "fp32"))
    assert "no target is given: writing pytorch, which the checkpoint was compressed for" in said
    assert "no target is given: writing onnx at int8, which the checkpoint was compressed for" in said
    (manifest,) = export(other, packing="none", progress=said.append)
    assert manifest.precision == "fp32", "as nothing packed was asked for"
