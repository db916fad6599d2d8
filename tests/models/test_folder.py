from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    with pytest.raises(UsageError, match=r"dog/000\.png is 9x9 pixels and \S*cat/000\.png is 6x4") as raised:
        load(str(tmp_path))
    assert (raised.value.code, raised.value.option) == ("sizes-differ", "image_size")


def test_one_class_or_no_pixels_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 20)
    with pytest.raises(UsageError) as raised:
        load(str(tmp_path))
    assert (raised.value.code, raised.value.name) == ("one-class", "cat")
    for size in (0, -3):
        with pytest.raises(UsageError) as raised:
            load(str(tmp_path), image_size=size)
        assert (raised.value.code, raised.value.option) == ("out-of-range", "image_size")


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
    with pytest.raises(UsageError) as caught:
        load(str(tmp_path))
    assert (caught.value.code, caught.value.path) == ("unreadable", spoilt)
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
    with pytest.raises(UsageError) as raised:
        load(str(tmp_path / "data"))
    assert raised.value.code == "disk-full"


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
    for folder in (tmp_path, tmp_path / ".git", tmp_path / "cat"):
        folder.mkdir(exist_ok=True)
        with pytest.raises(UsageError) as raised:
            load(str(tmp_path))
        assert (raised.value.code, raised.value.path) == ("no-images", tmp_path)


def test_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    _fill(tmp_path / "train/cat", 3)
    _fill(tmp_path / "train/dog", 3)
    _fill(tmp_path / "test/cat", 3)
    with pytest.raises(UsageError) as raised:
        load(str(tmp_path))
    assert (raised.value.code, raised.value.name) == ("classes-differ", "dog")


def test_too_few_to_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        _fill(tmp_path / name, 1)
    with pytest.raises(UsageError, match="the validation split is empty"):
        load(str(tmp_path))


def _two(folder: Path, image: Image.Image, suffix: str = "png", **saved: Any) -> torch.Tensor:
    """The image as it comes out of a folder that has it among others of its kind: (channels, height, width)."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            image.save(folder / name / f"{index}.{suffix}", **saved)
    return load(str(folder)).train.images[0]


RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_rescaled(tmp_path: Path, suffix: str) -> None:
    found = _two(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 257), suffix)
    assert torch.equal(found, torch.from_numpy(RAMP)[None])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(UsageError) as raised:
        _two(tmp_path, Image.fromarray((RAMP.astype(np.float64) * 1e6).astype(dtype)), "tif")
    assert raised.value.code == "unknown-range"
    assert str(raised.value.path).endswith(".tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_in_the_alpha_channel_lies_on_white(tmp_path: Path, mode: str) -> None:
    black = Image.new(mode, (6, 4), 0)
    black.putalpha(Image.fromarray(RAMP))
    found = _two(tmp_path, black)
    assert torch.equal(found, torch.from_numpy(255 - RAMP).expand(3, -1, -1))


def test_what_is_opaque_is_as_it_was(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (4, 6, 4)).astype(np.uint8)
    noise[..., 3] = 255
    found = _two(tmp_path, Image.fromarray(noise))
    assert torch.equal(found, torch.from_numpy(noise[..., :3]).permute(2, 0, 1))


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}
"""EXIF 2.32, section 4.6.4 A: where the stored rows and columns belong."""


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_a_camera_noted_as_rotated_is_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.stack([RAMP] * 3, axis=-1))
    kept = {"lossless": True} if suffix == "webp" else {}
    found = _two(tmp_path, picture, suffix, exif=exif, **kept)
    expected = UPRIGHT[orientation](RAMP)
    assert found.shape == (3, *expected.shape)
    assert np.array_equal(found[0].numpy(), expected)


def _notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.name == "dwindle.models.listed"]
    caplog.clear()
    return said


def _noise(folder: Path, count: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(random.randint(0, 256, (4, 6)).astype(np.uint8)).save(folder / f"{seed}-{index}.png")


def test_what_is_odd_is_said_and_clean_data_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed, name in enumerate(("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog")):
        _noise(tmp_path / name, 6, seed)
    clean = load(str(tmp_path))
    assert _notes(caplog) == []

    (tmp_path / "train/.thumbnails").mkdir()
    (tmp_path / "train/cat/.checkpoints").mkdir()
    for name in (".thumbnails/a.png", "cat/.checkpoints/a.png", "cat/._0.png"):
        shutil.copy(tmp_path / "train/cat/0-0.png", tmp_path / "train" / name)
    assert load(str(tmp_path)).fingerprint == clean.fingerprint, "what is hidden is no class and no image"
    assert _notes(caplog) == []

    for name in ("a.gif", "b.gif", "c.HEIC", "notes"):
        (tmp_path / "train/cat" / name).write_text("")
    assert load(str(tmp_path)).fingerprint == clean.fingerprint
    (said,) = _notes(caplog)
    assert "4 files" in said
    assert "2 with .gif" in said
    assert "1 with .heic" in said

    for name in ("a.gif", "b.gif", "c.HEIC", "notes"):
        (tmp_path / "train/cat" / name).unlink()
    shutil.copy(tmp_path / "train/cat/0-3.png", tmp_path / "test/dog/again.png")
    load(str(tmp_path))
    (said,) = _notes(caplog)
    assert "1 of 13 images of the test split" in said
    assert "train/cat/0-3.png" in said
    assert "test/dog/again.png" in said


@pytest.mark.parametrize("flat", [True, False])
def test_a_set_with_nothing_to_tell_apart_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, flat: bool) -> None:
    _two(tmp_path, Image.new("L", (6, 4), 255) if flat else Image.fromarray(RAMP))
    said = [note for note in _notes(caplog) if "nothing tells them apart" in note]
    assert len(said) == 3, "each split has two images or more"


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    _fill(tmp_path, 16)
    splits = load(str(tmp_path))
    assert splits.classes == ()
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [8, 4, 4]


def test_broken_images_are_left_out_counted_and_told_by_the_fingerprint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, name in enumerate(("cat", "dog")):
        _noise(tmp_path / name, 12, seed)
    whole = load(str(tmp_path)).fingerprint
    victim = tmp_path / "cat/0-3.png"
    kept = victim.read_bytes()
    (tmp_path / "dog/0.png").write_bytes(b"no image")
    victim.write_bytes(kept[:60])
    with pytest.raises(UsageError) as raised:
        load(str(tmp_path))
    assert raised.value.code == "unreadable"
    assert "skip_broken" in str(raised.value)
    caplog.clear()
    splits = load(str(tmp_path), skip_broken=True)
    assert _notes(caplog) == [f"note: 2 of 25 images can't be decoded and are left out, such as {victim}"]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 23
    assert splits.fingerprint != whole
    assert len(splits.pictures) == len(splits.train)
    victim.write_bytes(kept)
    assert load(str(tmp_path), skip_broken=True).fingerprint == whole
    for path in (tmp_path / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError) as raised:
        load(str(tmp_path), skip_broken=True)
    assert (raised.value.code, str(raised.value).count("cat")) == ("unreadable", 1)
