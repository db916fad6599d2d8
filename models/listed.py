"""Images that were listed with their classes, read into memory, or into a mapped file where that is too much.

What is odd about a data set is logged as a warning.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.progress import track

from dwindle.errors import UsageError
from dwindle.files import staged, user_cache
from dwindle.foreign import console, single_line
from dwindle.models.data import Splits, Subset, drawn
from dwindle.models.pictures import GREY, Picture, Shape, is_broken, opened, pixels, quarter_turned
from dwindle.preprocessing import Preprocessing
from dwindle.quantities import format_bytes
from dwindle.task import Split

Sample = tuple[Picture, int]
"""An image and its class."""
Digests = NDArray[np.uint64]
"""Of the pixels of each image: equal where they are equal."""

_log = logging.getLogger(__name__)
_DECODED = "2"
"""Changes when the same files are decoded to other pixels, or kept in another layout."""


@dataclass(frozen=True)
class Listed:
    """The images of a data set, none of which is decoded yet."""

    splits: Mapping[Split, Sequence[Sample]]
    """`train` at least."""
    classes: tuple[str, ...]
    """The names of the classes; empty where there are no labels."""
    data: str | None = None
    """What leads to the same data for certain, where that is more than what was given, such as a commit."""


def splits_of(
    listed: Listed, image_size: int | None, how: Preprocessing | None, *, skip_broken: bool = False
) -> Splits:
    """The images, decoded. A split that isn't there is carved from train: of each class a tenth for validation and a
    fifth for test, or a quarter for each of the two where there are no labels.

    Images become grey where all are grey, else RGB. With `image_size`, each is cropped to a square about its centre and
    scaled to that side, by the crop and the interpolation of `how`, whose
    own size it is by default; without either, all must be of one size. What would take
    more than half of the free memory is decoded once into a file of the user's cache, and mapped.
    Images that are in two splits are logged as a warning, as is a split in which every image is of one colour or the
    same. With `skip_broken`, so are those that can't be decoded: they are left out, first of all.
    Raises UsageError where an image can't be decoded, its pixels have no known range, sizes differ, or the disk has no
    room for that file.
    """
    if image_size is None and how and how.size:
        image_size = how.size[0]
    if skip_broken:
        listed = _without_broken(listed)
    width, height, mode = _common([picture for samples in listed.splits.values() for picture, _ in samples], image_size)
    splits: dict[Split, Sequence[Sample]] = dict(listed.splits)
    # Without labels nothing is trained, and half is enough to calibrate on.
    shares = (0.2, 0.1) if listed.classes else (1 / 4, 1 / 3)
    carved: tuple[Split, Split] = ("test", "validation")
    for split, share in zip(carved, shares, strict=True):
        if split not in splits:
            samples = splits["train"]
            left, out = drawn(np.array([label for _, label in samples]), share)
            splits["train"], splits[split] = [samples[i] for i in left], [samples[i] for i in out]
    shape = (len(mode), height, width)
    fits = sum(map(len, splits.values())) * math.prod(shape) <= psutil.virtual_memory().available / 2
    read = _read if fits else _mapped
    decoded = {split: read(samples, shape, how) for split, samples in splits.items()}
    for split, (subset, digests) in decoded.items():
        _note_sameness(split, subset, digests)
    pairs: tuple[tuple[Split, Split], ...] = (("train", "validation"), ("train", "test"), ("validation", "test"))
    for known, judged in pairs:
        _note_shared((known, splits[known], decoded[known][1]), (judged, splits[judged], decoded[judged][1]))
    train, validation, test = (decoded[split][0] for split in ("train", "validation", "test"))
    pictures = tuple(picture for picture, _ in splits["train"])
    return Splits(train, validation, test, classes=listed.classes, pictures=pictures)


def broken_among(pictures: Sequence[Picture]) -> list[Picture]:
    """Those that can't be decoded, which a line of the log counts and gives an example of."""
    with ThreadPoolExecutor(os.cpu_count()) as readers:
        broken = [picture for picture, is_so in zip(pictures, readers.map(is_broken, pictures), strict=True) if is_so]
    if broken:
        note(f"{len(broken)} of {len(pictures)} images can't be decoded and are left out, such as {broken[0]}")
    return broken


def _without_broken(listed: Listed) -> Listed:
    broken = set(broken_among([picture for samples in listed.splits.values() for picture, _ in samples]))
    left = {
        split: [sample for sample in samples if sample[0] not in broken] for split, samples in listed.splits.items()
    }
    for split, samples in left.items():
        missing = {label for _, label in listed.splits[split]} - {label for _, label in samples}
        if not samples or (split == "train" and missing):
            what = f"class {listed.classes[min(missing)]}" if listed.classes else "split"
            raise UsageError(
                f"no image of the {split} {what} can be decoded: mend some",
                code="unreadable",
                option="data",
                path=str(listed.splits[split][0][0]),
            )
    return replace(listed, splits=left)


def _common(pictures: Sequence[Picture], image_size: int | None) -> tuple[int, int, tuple[str, ...]]:
    """Width, height and channels that all images are read at; only headers are read."""
    first: Picture = ""
    grey = True
    size = (image_size, image_size) if image_size else None
    for picture in pictures:
        with opened(picture) as image:
            grey &= image.mode in GREY
            seen = image.size[::-1] if quarter_turned(image) else image.size
            if size is None:
                first, size = picture, seen
            if image_size is None and seen != size:
                raise UsageError(
                    f"{picture} is {seen[0]}x{seen[1]} pixels and {first} is {size[0]}x{size[1]}: "
                    "give `image_size`, and all are cropped and scaled to it",
                    code="sizes-differ",
                    option="image_size",
                    path=str(picture),
                )
    assert size is not None  # a data set has at least one image
    return *size, ("L",) if grey else ("R", "G", "B")


def _read(samples: Sequence[Sample], shape: Shape, how: Preprocessing | None) -> tuple[Subset, Digests]:
    images, digests = np.empty((len(samples), *shape), np.uint8), np.empty(len(samples), np.uint64)
    for index, (picture, _) in enumerate(samples):
        images[index] = pixels(picture, shape, how)
        digests[index] = _digest(images[index])
    return Subset(torch.from_numpy(images), _labels(samples)), digests


def _mapped(samples: Sequence[Sample], shape: Shape, how: Preprocessing | None) -> tuple[Subset, Digests]:
    """As `_read`, in a file that the system pages in as it is needed. It is written once for the same images.

    It holds the pixels of all images and then their digests, eight bytes each.
    """
    whole, end = (len(samples), *shape), len(samples) * math.prod(shape)
    file = user_cache() / "images" / f"{_listing(samples, shape, how)}.u8"
    if not file.exists():
        with staged(file) as scratch:
            free = shutil.disk_usage(scratch.parent).free
            if end + 8 * len(samples) > free:
                raise UsageError(
                    f"{len(samples)} images take {format_bytes(end)}, too much for memory, and "
                    f"{file.parent} has {format_bytes(free)} left to decode them to: give a "
                    "smaller `image_size`, fewer images, or another cache in XDG_CACHE_HOME",
                    code="disk-full",
                    path=file.parent,
                )
            scratch.touch()
            os.truncate(scratch, end + 8 * len(samples))
            images = np.memmap(scratch, np.uint8, "r+", shape=whole)
            digests = np.empty(len(samples), "<u8")
            with ThreadPoolExecutor(os.cpu_count()) as readers:
                decoded = readers.map(partial(pixels, shape=shape, how=how), (picture for picture, _ in samples))
                said = track(decoded, f"decoding to {file}", len(samples), console=console())
                for index, each in enumerate(said):
                    images[index] = each
                    digests[index] = _digest(images[index])
            images.flush()
            with scratch.open("r+b") as tail:
                tail.seek(end)
                tail.write(digests.tobytes())
    # Copy on write: torch wants what it may write to.
    subset = Subset(torch.from_numpy(np.memmap(file, np.uint8, "c", shape=whole)), _labels(samples), on_disk=True)
    return subset, np.fromfile(file, "<u8", offset=end)


def _listing(samples: Sequence[Sample], shape: Shape, how: Preprocessing | None) -> str:
    """A name for these images at this size: a hash of where they lie, their sizes and times of change."""
    scaled = f" {how.resize} {how.crop_share} {how.interpolation}" if how else ""
    digest = hashlib.sha256(f"{_DECODED} {shape}{scaled}".encode())
    for picture, _ in samples:
        digest.update((_state(picture) if isinstance(picture, str) else picture.identity()).encode())
    return digest.hexdigest()[:24]


def _state(path: str) -> str:
    found = Path(path).stat()
    return f"{Path(path).resolve()}\0{found.st_size} {found.st_mtime_ns}\0"


def _labels(samples: Sequence[Sample]) -> torch.Tensor:
    return torch.tensor([label for _, label in samples], dtype=torch.int64)


def _digest(image: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(image.data, digest_size=8).digest(), "little")


def _note_sameness(split: str, subset: Subset, digests: Digests) -> None:
    """Logs where a split's images have nothing that tells them apart."""
    if not any(image.min() < image.max() for image in subset.images):
        note(f"every image of the {split} split is of one colour, so that nothing tells them apart")
    elif len(digests) > 1 and (digests == digests[0]).all():
        note(f"every image of the {split} split is the same, so that nothing tells them apart")


def _note_shared(known: tuple[str, Sequence[Sample], Digests], judged: tuple[str, Sequence[Sample], Digests]) -> None:
    """Logs which images of one split are in another too, each given as its name, its samples and their digests."""
    (before, originals, seen), (split, samples, digests) = known, judged
    shared = np.flatnonzero(np.isin(digests, seen))
    if len(shared):
        first = int(np.flatnonzero(seen == digests[shared[0]])[0])
        note(
            f"{len(shared)} of {len(digests)} images of the {split} split are in the {before} split too, such as "
            f"{samples[shared[0]][0]}, which is the same as {originals[first][0]}: figures of that split mean less"
        )


def note(sentence: str) -> None:
    """Logs what is odd about data, as a warning that the command line prints."""
    if os.environ.get("RANK", "0") == "0":  # of processes under torchrun the first speaks for all
        _log.warning("%s", single_line(f"note: {sentence}"))
