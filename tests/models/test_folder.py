from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from dwindle.errors import UsageError
from dwindle.models.batches import Batches
from dwindle.models.data import Splits
from dwindle.models.datasets import load


def _fill(folder: Path, count: int, *, size: tuple[int, int] = (6, 4), mode: str = "RGB", first: int = 0) -> None:
    """Pictures of one grey level each, counted up from `first`, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        Image.new(mode, size, index if mode == "L" else (index, index, 255)).save(folder / f"{index:03d}.png")


def _levels(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_one_folder_is_split_by_class(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 20)
    _fill(tmp_path / "dog", 10, first=100)
    splits = load(str(tmp_path))
    assert splits.classes == ("cat", "dog")
    assert splits.shape == (3, 4, 6)
    assert torch.bincount(splits.test.labels).tolist() == [4, 2]
    assert torch.bincount(splits.validation.labels).tolist() == [2, 1]
    every = [level for name in ("train", "validation", "test") for level in _levels(splits[name].images)]
    assert sorted(every) == [*range(20), *range(100, 110)]
    assert [level >= 100 for level in _levels(splits.train.images)] == splits.train.labels.bool().tolist()
    assert bool((splits.train.images[:, 2] == 255).all())
    assert splits.fingerprint == load(str(tmp_path)).fingerprint


@pytest.mark.parametrize("validation", ["val", "validation", None])
def test_split_folders(tmp_path: Path, validation: str | None) -> None:
    for index, split in enumerate(["train", "test"] + ([validation] if validation else [])):
        for label, name in enumerate(("cat", "dog")):
            _fill(tmp_path / split / name, 10, mode="L", first=40 * index + 20 * label)
    splits = load(str(tmp_path))
    assert splits.shape == (1, 4, 6)
    assert _levels(splits.test.images) == [*range(40, 50), *range(60, 70)]
    if validation:
        assert _levels(splits.validation.images) == [*range(80, 90), *range(100, 110)]
        assert len(splits.train) == 20
    else:
        assert sorted(_levels(splits.validation.images) + _levels(splits.train.images)) == [
            *range(10),
            *range(20, 30),
        ]
        assert len(splits.validation) == 2


def test_an_image_size_crops_about_the_centre_and_scales(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # what a central square keeps
    for name in ("cat", "dog"):
        _fill(tmp_path / name, 4, size=(10, 10))
        Image.fromarray(wide).save(tmp_path / name / "wide.png")
    splits = load(str(tmp_path), image_size=8)
    assert splits.shape == (3, 8, 8)
    every = torch.cat([splits[name].images for name in ("train", "validation", "test")])
    assert sum(bool((image == 200).all()) for image in every) == 2


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 2)
    _fill(tmp_path / "dog", 2, size=(9, 9))
    with pytest.raises(UsageError, match=r"dog/000\.png is 9x9 pixels and \S*cat/000\.png is 6x4: give an image size"):
        load(str(tmp_path))


def test_one_class_or_no_pixels_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 20)
    with pytest.raises(UsageError, match="one class folder, cat: give two or more"):
        load(str(tmp_path))
    for size in (0, -3):
        with pytest.raises(UsageError, match=f"an image size of {size} pixels"):
            load(str(tmp_path), image_size=size)


def test_grey_and_colour_together_are_read_as_colour(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 5, mode="L")
    _fill(tmp_path / "dog", 5)
    assert load(str(tmp_path)).shape[0] == 3


@pytest.mark.parametrize("cut", [True, False])
def test_what_is_not_an_image_is_named(tmp_path: Path, cut: bool) -> None:
    _fill(tmp_path / "dog", 3, size=(40, 40))
    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)
    (tmp_path / "cat").mkdir()
    for index in range(4):
        Image.fromarray(noise).save(tmp_path / f"cat/{index}.png")
    spoilt = tmp_path / "cat/2.png"
    spoilt.write_bytes(spoilt.read_bytes()[:1500] if cut else b"not a picture")
    with pytest.raises(UsageError, match=r"cat/2\.png can't be read as an image") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_more_than_half_the_memory_is_mapped_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for index in range(30):
        _fill(tmp_path / "data" / ("dog" if index % 2 else "cat"), 1, first=index)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    needed = 30 * 3 * 4 * 6
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * needed))
    memory = load(str(tmp_path / "data"))
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * needed - 1))
    mapped = load(str(tmp_path / "data"))
    assert mapped.train.on_disk
    assert mapped.fingerprint == memory.fingerprint
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache/dwindle/images").iterdir()}
    assert len(files) == 3
    assert load(str(tmp_path / "data")).fingerprint == memory.fingerprint
    assert {file: file.stat().st_mtime_ns for file in files} == files
    _batches_are_the_same(memory, mapped)

    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    _fill(tmp_path / "data/cat", 1, first=50)
    with pytest.raises(UsageError, match=r"has 10 B left to decode them to: give a smaller image size"):
        load(str(tmp_path / "data"))


def _batches_are_the_same(memory: Splits, mapped: Splits) -> None:
    """Those that are read ahead, and those that aren't."""
    ahead, plain = (Batches(splits.train, 4, 1, True, seed=3) for splits in (mapped, memory))
    for start in (0, 7):
        pairs = zip(ahead.each(2, range(start, 12)), plain.each(2, range(start, 12)), strict=True)
        for (step, batch), (same, expected) in pairs:
            assert step == same
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.labels, expected.labels)
    assert list(ahead.each(0, range(5, 5))) == []


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="isn't a folder of class folders"):
        load(str(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(UsageError, match="isn't a folder of class folders with images in each"):
        load(str(tmp_path))


def test_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    _fill(tmp_path / "train/cat", 3)
    _fill(tmp_path / "train/dog", 3)
    _fill(tmp_path / "test/cat", 3)
    with pytest.raises(UsageError, match=r"differ in class folders \(dog\)"):
        load(str(tmp_path))


def test_too_few_to_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        _fill(tmp_path / name, 1)
    with pytest.raises(UsageError, match="the validation split is empty"):
        load(str(tmp_path))
