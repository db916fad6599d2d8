"""Photographs: which folders hold them, and that every sample follows from the seed, the training, the epoch and its
index, whoever decodes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dwindle.compress import Request
from dwindle.compress.recipes import RECIPES, Pace
from dwindle.compress.resolve import resolve
from dwindle.errors import UsageError
from dwindle.models.classify import ImageClassification
from dwindle.models.data import Subset
from dwindle.models.datasets import load
from dwindle.models.photos.mix import Mix
from dwindle.models.photos.rule import photographs_in
from dwindle.models.photos.sample import Augmentation
from dwindle.models.spec import TaskSpec
from dwindle.origin import requested

EVERYTHING: dict[str, Any] = {
    "photographs": True,
    "image_size": 32,
    "epochs": 3,
    "batch_size": 4,
    "optimizer": "adamw",
    "lr": 0.01,
    "schedule": "cosine",
    "label_smoothing": 0.1,
    "clip": 1.0,
    "mixup": 0.2,
    "cutmix": 1.0,
    "trivial": True,
    "erase": 0.5,
    "ema": 0.9,
    "augment": 0.8,
}


def fill(root: Path, each: int = 12, across: int = 72) -> str:
    """Two classes of JPEGs, noise about a dark and about a light level, each image of a width of its own."""
    draw = np.random.default_rng(0)
    for index, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for image in range(each):
            pixels = draw.integers(20 + 130 * index, 100 + 130 * index, (across, across + image, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{image:02d}.jpg")
    return str(root)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return fill(tmp_path / "photographs")


def task(folder: str, **options: Any) -> ImageClassification:
    spec = TaskSpec(folder, **{**EVERYTHING, **options})
    return ImageClassification(spec, load(folder, image_size=spec.image_size))


def made() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(256, 2)]
    return nn.Sequential(*layers)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_of_large_images_holds_photographs(folder: str, tmp_path: Path) -> None:
    assert photographs_in(folder) == 24
    assert photographs_in(fill(tmp_path / "small", across=63)) == 0
    assert photographs_in("digits") == photographs_in("my.module:data") == 0


def test_the_recipe_follows_from_data_and_weights_and_is_said(folder: str, tmp_path: Path) -> None:
    small = resolve(Request("zoo:resnet8", fill(tmp_path / "small", across=40), density=0.5))
    assert "photographs" not in small.task_options
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    fresh = resolve(Request("zoo:resnet8", folder, density=0.5))
    trained = resolve(Request("zoo:resnet8", folder, density=0.5, weights=str(weights)))
    assert "recipe photo:" in fresh.choice
    assert "recipe finetune-photo:" in trained.choice
    assert fresh.task_options["photographs"]
    assert trained.task_options["lr"] < fresh.task_options["lr"]
    assert trained.task_options["epochs"] < fresh.task_options["epochs"] < 182
    asked = resolve(Request("zoo:resnet8", {"data": folder, "epochs": 7}, density=0.5))
    assert asked.task_options["epochs"] == 7
    paper = resolve(Request("zoo:resnet8", folder, density=0.5, recipe="paper"))
    assert paper.task_options == {"data": folder, "schedule": "step", "warmup": 0.0, "seed": 0}
    held = resolve(Request("zoo:resnet8", folder, density=0.5, method="finetune"))
    assert held.task_options["schedule"] == "step"


@pytest.mark.parametrize(
    ("options", "precision", "pace"),
    [
        ({"size": "20KB", "target": "coreml"}, "palette4", RECIPES["photo"].pace),
        ({"size": "20KB", "target": "onnx", "gradual": 0.0, "qat": 0.1}, "palette4", Pace(0.75, 0.0, 0.1)),
        ({"size": "20KB", "target": "onnx", "precision": "fp16"}, "fp16", Pace(0.75, 0.5, 0.0)),
        ({"size": "20KB", "target": "executorch"}, "int8", Pace(qat=0.3)),  # prunes channels, all at once
        ({"size": "20KB", "target": "pytorch"}, "fp32", Pace()),
        ({"size": "20KB", "method": "finetune"}, "palette4", Pace(qat=0.3)),
        ({"size": "20KB", "recipe": "best"}, "fp32", Pace()),
        ({"density": 0.2}, "fp32", Pace(0.75, 0.5, 0.0)),
        ({"density": 0.2, "prune_per_round": 0.2, "gradual": 0.0}, "fp32", Pace()),
        ({"max_drop": 1.0, "precision": "int8"}, "int8", Pace(qat=0.3)),
    ],
)
def test_photographs_are_pruned_fast_and_take_few_bits(
    folder: str, options: dict[str, Any], precision: str, pace: Pace
) -> None:
    resolved = resolve(Request("zoo:resnet8", folder, **options))
    assert resolved.request.precision == precision
    assert resolved.pace == pace
    recorded = {name: resolved.origin[name] for name in ("prune_per_round", "gradual")}
    assert recorded == {"prune_per_round": pace.prune_per_round, "gradual": pace.gradual}
    assert resolved.origin.get("qat", 0.0) == pace.qat
    for without in ((), ("qat",)):  # runs begun before recipes had a pace record none
        kept = {name: value for name, value in resolved.origin.items() if name not in without}
        origin = {"model": {"spec": "zoo:resnet8"}, "task": dict(resolved.task_options), **kept}
        assert resolve(requested(origin)).origin == kept


def test_a_training_of_the_users_own_has_the_plain_pace(tmp_path: Path) -> None:
    resolved = resolve(Request("zoo:resnet8", {"task": "my.module:Loop"}, size="20KB", recipe="photo"))
    assert (resolved.pace, resolved.request.precision) == (Pace(), "fp32")


def test_batches_are_the_same_with_any_number_of_workers(folder: str) -> None:
    batches = {workers: task(folder, workers=workers)._batches for workers in (0, 1, 2)}
    steps = range(1, batches[0].per_epoch * 2)
    alone = dict(batches[0].each(0, steps))
    for workers in (1, 2):
        for step, batch in batches[workers].each(0, steps):
            assert torch.equal(batch.images, alone[step].images)
            assert torch.equal(batch.labels, alone[step].labels)
    assert not torch.equal(alone[1].images, batches[0].at(1, 1).images)
    assert alone[1].images.shape == (4, 3, 32, 32)


def test_the_end_of_the_schedule_shows_samples_as_they_are(folder: str) -> None:
    own = task(folder, augment=0.5, workers=1)
    last = own.steps - 1
    shown = {step: batch.images for step, batch in own._batches.each(0, range(own.steps))}
    assert list(shown) == list(range(own.steps))
    plain = own.splits.train.images.flatten(1).tolist()
    assert all(image in plain for image in shown[last].flatten(1).tolist())
    assert not any(image in plain for image in shown[0].flatten(1).tolist())


def test_a_sample_is_a_part_of_its_photograph(tmp_path: Path) -> None:
    """A large JPEG is reduced while it is decoded, and the part is the same as of the whole one."""
    ramp = np.linspace(0, 255, 640).astype(np.uint8)[None, :, None].repeat(480, 0).repeat(3, 2)
    Image.fromarray(ramp).save(path := str(tmp_path / "ramp.jpg"), quality=95)
    Image.fromarray(ramp).save(whole := str(tmp_path / "ramp.png"))
    how = Augmentation((3, 32, 32), "RGB", 0.3, flip=False, trivial=False, erase=0.0)
    for seed in range(5):
        part = how.sample(path, seed).float()
        assert (part - how.sample(whole, seed).float()).abs().max() < 6  # no format but JPEG can be reduced
        rise = part.mean((0, 1)).diff()
        assert (rise > 0).all()
        assert 255 / 32 * 0.3 < float(rise.mean()) < 255 / 32
    assert torch.equal(how.sample(path, 1), how.sample(path, 1))


def test_a_photograph_is_upright_in_training_too(tmp_path: Path) -> None:
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[:40] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: what is above is on the right
    Image.fromarray(pixels).save(path := str(tmp_path / "turned.jpg"), exif=exif, quality=95)
    sample = Augmentation((3, 16, 16), "RGB", 1.0, flip=False, trivial=False, erase=0.0).sample(path, 0).float()
    assert sample[:, :, -3:].mean() > 250
    assert sample[:, :, :3].mean() < 5


def test_mixed_labels_are_shares() -> None:
    batch = Subset(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 3)
    mixed = Mix(0.2, 1.0, 3).mixed(batch, 5)
    assert mixed.labels.sum(1).allclose(torch.ones(8))
    assert ((mixed.labels > 0).sum(1) == 2).any()
    again = Mix(0.2, 1.0, 3).mixed(batch, 5)
    assert torch.equal(mixed.images, again.images)
    assert torch.equal(mixed.labels, again.labels)
    assert not Mix(0.0, 0.0, 3)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(folder: str, optimizer: str) -> None:
    own, model, saved = task(folder, optimizer=optimizer, workers=1), made(), {}

    def on_step(loss: float) -> None:
        if not saved and int(own.state_dict()["position"][1]) == 5:
            saved.update(weights={name: t.clone() for name, t in model.state_dict().items()}, task=own.state_dict())

    own.fit(model, start=0.0, on_step=on_step)
    again, fresh = made(), task(folder, optimizer=optimizer, workers=0)
    again.load_state_dict(saved["weights"])
    fresh.load_state_dict(saved["task"], again)
    fresh.fit(again, start=0.0, on_step=lambda loss: None)
    assert equal(model.state_dict(), again.state_dict())
    assert equal(own.state_dict(), fresh.state_dict())
    assert own.evaluate(model, "train") > 50


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"optimizer": "adam"}, "optimizer"),
        ({"clip": 0.0}, "clip"),
        ({"area": 0.0}, "area"),
        ({"mixup": -1.0}, "mixup"),
        ({"workers": -1}, "workers"),
        ({"photographs": False}, "trivial"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: str, options: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as raised:
        task(folder, **options)
    assert raised.value.option == option


def test_data_without_files_holds_no_photographs() -> None:
    with pytest.raises(UsageError) as raised:
        ImageClassification(TaskSpec("digits", photographs=True), load("digits"))
    assert raised.value.option == "photographs"


def test_a_checkpoint_records_what_differs_and_no_number_of_workers(folder: str) -> None:
    recorded = task(folder, workers=2).origin
    assert recorded["optimizer"] == "adamw"
    assert "workers" not in recorded
    assert "optimizer" not in ImageClassification(TaskSpec("digits"), load("digits")).origin
