"""The built-in task normalises, scales and orders images as the network's weights want them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.errors import UsageError
from dwindle.models.classify import ImageClassification
from dwindle.models.data import Splits, Subset
from dwindle.models.folder import load_folder
from dwindle.models.spec import TaskSpec
from dwindle.models.tasks import make_task
from dwindle.preprocessing import Preprocessing

IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(8, 8), interpolation="bilinear")


def splits(channels: int = 3) -> Splits:
    def subset(seed: int) -> Subset:
        torch.manual_seed(seed)
        return Subset(torch.randint(256, (12, channels, 8, 8), dtype=torch.uint8), torch.arange(12) % 2)

    return Splits(subset(0), subset(1), subset(2), ("cat", "dog"))


def task(channels: int = 3, **options: object) -> ImageClassification:
    return ImageClassification(TaskSpec("made up", crop=0, **options), splits(channels))  # type: ignore[arg-type]


def test_without_a_word_the_datas_own_statistics_are_taken() -> None:
    plain = task()
    assert plain.normalization[0] is plain.splits.mean
    assert plain.preprocessing.mean == pytest.approx((plain.splits.mean.double() / 255).tolist())
    assert (plain.preprocessing.size, plain.preprocessing.classes) == ((8, 8), ("cat", "dog"))
    assert not {"normalize", "preprocessing"} & plain.origin.keys()  # runs begun before there were these go on


@pytest.mark.parametrize("options", [{"normalize": "imagenet"}, {"preprocessing": IMAGENET}])
def test_inputs_are_normalised_as_the_weights_want(options: dict[str, object]) -> None:
    image = splits().train.images[:1].float() / 255
    mean, std = (torch.tensor(moment)[:, None, None] for moment in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(task(**options).example_inputs()[0], (image - mean) / std, rtol=1e-5, atol=1e-6)


def test_what_is_chosen_comes_before_what_the_source_says() -> None:
    chosen = task(normalize="0-1", preprocessing=IMAGENET)
    assert chosen.preprocessing.std == (1.0, 1.0, 1.0)
    assert chosen.preprocessing.interpolation == "bilinear"
    by_data = task(normalize="data", preprocessing=IMAGENET)
    assert by_data.normalization[1] is by_data.splits.std


def test_grey_images_have_no_statistics_of_three_channels() -> None:
    assert task(1, normalize="0-1").preprocessing.colours == "L"
    with pytest.raises(UsageError) as refused:
        task(1, normalize="imagenet")
    assert refused.value.option == "normalize"


def test_other_normalisations_are_those_that_differ() -> None:
    assert set(task().normalized_otherwise()) == {"0-1", "imagenet"}
    assert set(task(normalize="imagenet").normalized_otherwise()) == {"data", "0-1"}
    assert set(task(1).normalized_otherwise()) == {"0-1"}


def test_grey_images_are_shown_to_a_network_of_colours() -> None:
    three = splits(1).in_colours("RGB")
    assert three.shape == (3, 8, 8)
    assert torch.equal(three.test.images[:, 2], splits(1).test.images[:, 0])
    assert torch.equal(splits().in_colours("BGR").train.images[:, 0], splits().train.images[:, 2])
    assert splits().in_colours("RGB").fingerprint == splits().fingerprint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(10):
            pixels = random.randint(0, 256, (20, 30, 3), np.uint8)
            pixels[:, :5], pixels[:, 25:] = 0, 255  # the edges
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_a_folder_is_scaled_and_cropped_as_the_weights_want(folder: Path) -> None:
    seen = {}
    for resize, share in (("shorter", 1.0), ("shorter", 0.5), ("stretch", 1.0)):
        how = Preprocessing((0.5,), (0.5,), (10, 10), resize, share)  # type: ignore[arg-type]
        seen[resize, share] = load_folder(folder, 10, how).train.images
    assert seen["stretch", 1.0][:, :, :, 0].max() == 0  # the whole width is there
    assert seen["shorter", 1.0][:, :, :, 0].max() > 0  # and here the middle of it
    assert not torch.equal(seen["shorter", 1.0], seen["shorter", 0.5])
    nearest = Preprocessing((0.5,), (0.5,), (10, 10), interpolation="nearest")
    assert not torch.equal(load_folder(folder, 10, nearest).train.images, seen["shorter", 1.0])
    assert torch.equal(load_folder(folder, 10).train.images, seen["shorter", 1.0])


def test_the_size_of_images_is_the_networks(folder: Path) -> None:
    made = make_task({"data": str(folder), "preprocessing": IMAGENET, "crop": 0, "image_size": None})
    assert made.example_inputs()[0].shape == (1, 3, 8, 8)
    assert made.preprocessing is not None
    assert made.preprocessing.crop_share == IMAGENET.crop_share
    recorded = json.loads(json.dumps(made.origin))
    assert recorded["preprocessing"] == json.loads(json.dumps(asdict(IMAGENET)))


@pytest.mark.parametrize("name", ["valid", "dev", "validation"])
def test_the_validation_split_by_its_other_names(folder: Path, name: str) -> None:
    for split in ("train", name):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for file in sorted((folder / label).iterdir())[: 3 if split == name else 10]:
                (folder / split / label / file.name).write_bytes(file.read_bytes())
    assert len(load_folder(folder, 8).validation) == 6
    (folder / "val").mkdir()
    with pytest.raises(UsageError) as refused:
        load_folder(folder, 8)
    assert (refused.value.code, refused.value.path) == ("ambiguous", folder)


def test_a_data_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        make_task({"data": "digits", "data_root": str(tmp_path / "absent")})
    assert (refused.value.code, refused.value.option) == ("missing", "data_root")
