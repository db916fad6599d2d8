"""Folders of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dwindle.compress import Request, compress
from dwindle.compress.prepared import prepare
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export
from dwindle.models.checked_task import CheckedTask
from dwindle.models.supervised import Supervised
from dwindle.models.tasks import make_task, restore_task


def folder(at: Path, count: int = 24, side: int = 20) -> Path:
    """Discs of one colour on noise; a mask says where the disc is, and its edge is left out."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:side, :side]
    for name in ("images", "masks"):
        (at / name).mkdir(parents=True)
    for index in range(count):
        distance = np.hypot(y - random.uniform(6, 14), x - random.uniform(6, 14))
        image = random.randint(0, 90, (side, side, 3)).astype(np.uint8)
        image[distance < 5] = (200, 60, 60)
        mask = np.where(distance < 5, 1, 0).astype(np.uint8)
        mask[abs(distance - 5) < 0.5] = 255
        Image.fromarray(image).save(at / "images" / f"{index:03}.png")
        Image.fromarray(mask).save(at / "masks" / f"{index:03}.png")
    (at / "classes.txt").write_text("ground\ndisc\n")
    return at


class Net(nn.Module):
    """Answers at half the size, as many networks for segmentation do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.last(self.first(image).relu())}


def task(where: Path, **options: Any) -> CheckedTask:
    return make_task({"data": f"segmentation:{where}", "image_size": 16, **options})


@pytest.mark.slow
def test_discs_are_found_in_the_whole_way(tmp_path: Path) -> None:
    where = folder(tmp_path / "discs")
    made = task(where, epochs=1)
    assert made.metric == "mean-iou"
    assert made.class_names == ("ground", "disc")
    assert made.preprocessing is not None
    assert made.preprocessing.size == (16, 16)
    assert made.inputs("test")[0].shape == (5, 3, 16, 16)
    how: dict[str, Any] = {"density": 0.6, "rounds": 1, "granularity": "unstructured", "target": "pytorch"}
    how |= {"image_size": 16, "epochs": 40, "batch_size": 8, "lr": 0.01, "rehearsal": False}
    net = compress(Net(), tmp_path / "net.dwindle", Watcher(), data=f"segmentation:{where}", **how)
    assert net.metrics["test"] > 70
    [manifest] = export(net, ["pytorch"])
    assert manifest.preprocessing == made.preprocessing
    where.rename(tmp_path / "moved")
    with pytest.raises(UsageError) as caught:
        restore_task(net)
    assert caught.value.code == "data-missing"
    assert restore_task(net, data=f"segmentation:{tmp_path / 'moved'}").metric == "mean-iou"


def test_training_samples_differ_and_others_do_not(tmp_path: Path) -> None:
    given = task(folder(tmp_path / "discs"), epochs=1, batch_size=16).given
    assert isinstance(given, Supervised)
    first, again = (next(given.batches(fit, range(1)))[1][0][0] for fit in (0, 1))
    assert not torch.equal(first, again)
    inputs = [CheckedTask(given).inputs("validation")[0] for _ in range(2)]
    assert torch.equal(*inputs)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda at: (at / "masks/003.png").unlink(), "no-labels"),
        (lambda at: (at / "images/003.png").write_bytes(b"no image"), "unreadable"),
        (lambda at: (at / "masks/003.png").write_bytes(b"no image"), "unreadable"),
        (lambda at: Image.new("RGB", (20, 20)).save(at / "masks/003.png"), "unreadable"),
        (lambda at: (at / "masks").rename(at / "labels"), "no-images"),
        (lambda at: (at / "classes.txt").write_text("ground"), "classes-differ"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, damage: Any, code: str) -> None:
    where = folder(tmp_path / "discs")
    damage(where)
    with pytest.raises(UsageError) as caught:
        task(where, normalize="data")
    assert caught.value.code == code


def test_a_folder_that_is_not_there_or_has_no_size_is_refused(tmp_path: Path) -> None:
    for data, option in ((f"segmentation:{tmp_path / 'none'}", "data"), (f"segmentation:{tmp_path}", "data")):
        with pytest.raises(UsageError) as caught:
            make_task({"data": data, "image_size": 16})
        assert caught.value.option == option
    with pytest.raises(UsageError) as missing:
        make_task({"data": f"segmentation:{folder(tmp_path / 'discs')}"})
    assert missing.value.option == "image_size"


def test_broken_images_and_masks_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    whole = task(folder(tmp_path)).origin["fingerprint"]
    (tmp_path / "images/003.png").write_bytes((tmp_path / "images/003.png").read_bytes()[:90])
    (tmp_path / "masks/004.png").write_bytes(b"no image")
    with pytest.raises(UsageError):
        task(tmp_path)
    left = task(tmp_path, skip_broken=True)
    assert left.origin["fingerprint"] != whole
    assert left.origin["skip_broken"]
    for split in ("train", "validation", "test"):
        left.inputs(split)


@pytest.mark.slow
def test_a_network_by_name_has_the_classes_of_the_masks_and_a_classifier_is_refused(tmp_path: Path) -> None:
    data = {"data": f"segmentation:{folder(tmp_path / 'discs')}", "image_size": 32}
    ready = prepare(Request("torchvision:lraspp_mobilenet_v3_large", data, density=0.5))
    assert ready.spec.classes == 2
    with pytest.raises(UsageError) as refused:
        prepare(Request("zoo:resnet8", data, density=0.5))
    assert refused.value.option == "model"
