"""A checkpoint of a folder of images leaves its directory, and its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.compress import Request, compress
from dwindle.errors import UsageError
from dwindle.export import ExportOptions
from dwindle.export.one_target import export_one
from dwindle.models.tasks import restore_task

KEPT = 5


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos` and `net.dwindle`, made by someone who was in it."""
    folder = tmp_path_factory.mktemp("somewhere") / "project"
    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(20):
            Image.fromarray(random.randint(0, 256, (8, 8), np.uint8)).save(folder / "photos" / name / f"{index}.png")
    task = {"data": "photos", "epochs": 1, "crop": 1, "batch_size": 8}
    request = Request("zoo:resnet8", task, density=0.5, rounds=1, keep_samples=KEPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DWINDLE_BF16", "0")
        compress(request, "net.dwindle")
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same elsewhere, in use from a third place."""
    shutil.copytree(project, tmp_path / "moved")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "moved"


@pytest.mark.slow
def test_data_that_moved_with_the_checkpoint_is_found(moved: Path) -> None:
    net = Checkpoint.load(moved / "net.dwindle")
    assert net.data_folder == "../photos"
    assert restore_task(net).class_names == ("cat", "dog")


@pytest.mark.slow
def test_data_elsewhere_is_named_and_other_data_refused(moved: Path) -> None:
    net = Checkpoint.load(moved / "net.dwindle")
    (moved / "photos").rename(moved / "pictures")
    with pytest.raises(UsageError) as refused:
        restore_task(net)
    assert (refused.value.code, refused.value.option) == ("data-missing", "data")
    assert restore_task(net, data=str(moved / "pictures")).class_names == ("cat", "dog")
    (moved / "pictures" / "cat" / "0.png").unlink()
    with pytest.raises(UsageError) as refused:
        restore_task(net, data=str(moved / "pictures"))
    assert refused.value.code == "data-changed"


@pytest.mark.slow
def test_kept_samples_prove_a_file_without_data(moved: Path) -> None:
    shutil.rmtree(moved / "photos")
    net = Checkpoint.load(moved / "net.dwindle")
    assert {name: len(tensor) for name, tensor in net.samples.items()} == {"train.0": KEPT, "validation.0": 4}
    manifest = export_one(net, "onnx", ExportOptions())
    assert manifest.parity.samples == 4  # the split has no more
    assert manifest.preprocessing == net.preprocessing
    with pytest.raises(UsageError) as refused:
        export_one(net, "onnx", ExportOptions(precision="auto", max_drop=1.0))
    assert refused.value.code == "data-missing"


def test_export_names_what_to_give_compress_as_a_flag(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(moved / "photos")
    assert main(["export", str(moved / "net.dwindle"), "--precision", "auto", "--max-drop", "1"]) == 2
    assert "--keep-samples" in capsys.readouterr().err


def test_kept_samples_are_the_tasks_inputs(project: Path) -> None:
    net = Checkpoint.load(project / "net.dwindle")
    task = restore_task(net)
    assert torch.equal(net.samples["validation.0"], task.inputs("validation")[0][:KEPT])
    assert not (project / "net.dwindle" / "rounds").exists()


def test_a_task_of_its_own_finds_its_data_itself(project: Path) -> None:
    net = Checkpoint.load(project / "net.dwindle")
    net.origin["task"] = {"task": "anything:at_all"}
    with pytest.raises(UsageError) as refused:
        restore_task(net, data="photos")
    assert (refused.value.code, refused.value.option) == ("conflict", "data")
