from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import zstandard
from torch import Tensor, nn

import dwindle
from dwindle import checkpoint as checkpoints
from dwindle.errors import BudgetMissed, CheckpointError, ParityFailed, UsageError
from dwindle.export import export
from dwindle.export.coreml.target import CoreML
from dwindle.export.executorch.target import ExecuTorch
from dwindle.export.exporter import export_networks
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.target import require_used
from dwindle.files import sha256
from dwindle.manifest import Manifest, manifests
from dwindle.models.classify import ImageClassification
from dwindle.models.zoo import resnet8
from dwindle.quantities import format_bytes

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
    history = (checkpoints.Round(0, 1.0, None, validation=100.0, loss=None, seconds=0.0),)
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
    assert manifest.encoding == "Golomb-Rice + fp32 survivors"
    assert manifest.file.bytes == (folder / "net.onnx").stat().st_size < 50_000
    assert manifest.dense.bytes == (folder / "dense.onnx").stat().st_size > 300_000
    assert manifest.file.deflated_bytes < manifest.file.bytes
    assert manifest.parity.samples == 64
    assert manifest.parity.weights_equal == 20
    assert manifest.versions["dwindle"] == dwindle.__version__
    assert manifest.versions["onnxruntime"] == version("onnxruntime")
    assert said[:2] == ["onnx: writing net.onnx", "onnx: writing dense.onnx"]
    assert said[2].startswith("onnx: 40.0 KB, dense 311 KB; within ")


def test_fewer_bits_and_what_they_cost(checkpoint: Path) -> None:
    said: list[str] = []
    (manifest,) = export(checkpoint, ["onnx"], precision="int8", progress=said.append)
    assert (manifest.precision, manifest.dense_precision) == ("int8", "fp32")
    assert manifest.encoding == "Golomb-Rice + int8 survivors"
    assert manifest.file.bytes < 17_500 < 20 * manifest.file.bytes < manifest.dense.bytes * 1.2
    assert manifest.parity.relative is not None
    assert manifest.parity.relative < 1e-5
    quality = manifest.quality
    assert quality is not None
    assert quality.sqnr is not None
    assert 25 < quality.sqnr < 60
    assert quality.samples == 64
    assert quality.top1_agreement > 0.9
    assert len(quality.tensors) == 20
    assert min(quality.tensors.values()) > 30
    assert said[-1].startswith(f"onnx: int8 against fp32: SQNR of the outputs {quality.sqnr:.1f} dB, of weights ")
    assert Manifest.read(checkpoint / "exports" / "onnx") == manifest
    with pytest.raises(UsageError, match=r"^coreml has no precision 'int3': it stores "):
        export(checkpoint, ["coreml"], precision="int3")


def test_what_a_killed_export_left_goes_with_the_next_of_any_target(checkpoint: Path) -> None:
    left = checkpoint / "exports" / ".dwindle-0123456z"
    (left / "new/coreml").mkdir(parents=True)
    (left / "for").write_text("coreml")
    export(checkpoint, ["onnx"])
    assert not left.exists()


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


def test_a_rejected_file_is_kept_and_the_earlier_export_stays(
    trained: Changed, masked: Changed, example: Inputs, samples: Inputs, tmp_path: Path
) -> None:
    folder = tmp_path / "exports" / "onnx"
    dense = trained(resnet8(in_channels=1)).eval()
    pruned = masked(copy.deepcopy(dense), 0.1)
    networks = {"net": (pruned, deployable(pruned, example)), "dense": (dense, deployable(dense, example))}
    for attempt in range(2):  # without and with an earlier export
        with pytest.raises(
            ParityFailed, match=rf"^onnx: .*; the file is kept as {folder}/net.onnx.rejected$"
        ) as failed:
            export_networks(networks, example, samples, folder, Corrupting())
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
    assert manifest.precision == "int4"  # which rounds away those of the fixture's random survivors that are small
    assert said[0].startswith(f"onnx: int4 ({format_bytes(manifest.file.bytes)}) loses ")
    assert manifest.quality is not None
    assert manifest.quality.tensors
    assert said[0].endswith("100 are allowed")
    with pytest.raises(BudgetMissed, match="no precision stays within 1 points"):
        export(checkpoint, ["onnx"], precision="auto", max_drop=1.0)  # the fixture's dense network was never wrong


@pytest.mark.slow
def test_executorch_in_int8_is_calibrated_judged_by_its_file_and_compressed(checkpoint: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"precision": "auto", "max_drop": 100.0, "calib_samples": 16}
    (manifest,) = export(checkpoint, ["executorch"], **options, progress=said.append)
    folder = checkpoint / "exports" / "executorch"
    assert said[0].startswith("executorch: int8 (")
    assert said[1] == "executorch: calibrated on 16 samples of the training split"
    assert (manifest.precision, manifest.dense_precision, manifest.encoding) == ("int8", "fp32", "dense int8")
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
    ("options", "message"),
    [
        ({"packing": "zip"}, "there is no packing 'zip': choose auto or none"),
        ({"packing": "none", "precision": "auto", "max_drop": 1.0}, "auto compares packed files"),
        ({"precision": "int3"}, "onnx has no precision 'int3': it stores fp32 or fp16 or int8 or int4 or palette4"),
    ],
)
def test_other_packings_and_precisions_are_refused(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(checkpoint, ["onnx"], **options)


def test_a_file_that_a_tool_has_folded_is_seen(checkpoint: Path) -> None:
    export(checkpoint, ["onnx"], precision="palette4")
    path = checkpoint / "exports" / "onnx" / "net.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(
        CheckpointError, match=r"net\.onnx .* as if a tool that folds constants had unpacked its weights"
    ):
        Manifest.read(path.parent)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_os": "iOS18"}, "--min-os .* give --target coreml with it"),
        ({"calib_samples": 9}, "--calib-samples .* give --target executorch --precision int8 with them"),
        ({"calib_samples": 9, "precision": "auto", "max_drop": 1.0}, "--calib-samples"),
    ],
)
def test_an_option_that_no_target_has_a_use_for_is_refused(
    checkpoint: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        export(checkpoint, ["onnx", "pytorch"], **options)


def test_an_option_is_fine_where_one_target_has_a_use_for_it() -> None:
    both = [Onnx(), CoreML()]
    require_used(both, "iOS18", None)
    require_used([*both, ExecuTorch("int8")], "iOS18", 9)
    with pytest.raises(UsageError, match="--calib-samples"):
        require_used([*both, ExecuTorch()], "iOS18", 9)


@pytest.mark.parametrize("samples", [0, -1])
def test_a_calibration_needs_samples(checkpoint: Path, samples: int) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["executorch"], precision="int8", calib_samples=samples)
    assert refused.value.option == "calib_samples"


@pytest.mark.parametrize("options", [{"precision": "auto"}, {"max_drop": 1.0}, {"precision": "int8", "max_drop": 1.0}])
def test_auto_and_the_allowed_drop_go_together(checkpoint: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"], **options)
    assert refused.value.option == "max_drop"


@pytest.mark.parametrize("points", [-1.0, math.nan, math.inf])
def test_a_drop_is_points(checkpoint: Path, points: float) -> None:
    with pytest.raises(UsageError) as refused:
        export(checkpoint, ["onnx"], precision="auto", max_drop=points)
    assert refused.value.option == "max_drop"


def test_without_samples_nothing_is_proven(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageClassification, "inputs", lambda self, split: (torch.zeros(0, 1, 8, 8),))
    with pytest.raises(UsageError, match="on the validation split") as raised:
        export(checkpoint, ["onnx"])
    assert (raised.value.code, raised.value.name) == ("bad-member", "inputs")
