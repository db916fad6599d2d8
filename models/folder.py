"""A folder of class folders, read into memory, or into a mapped file where it is too much for that.

What Pillow's own conversion to 8 bits would lose is kept: images of 16 bits are rescaled, transparent ones laid on
white, and those that a camera noted as rotated turned upright. What is odd about a data set is logged as a warning.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.progress import track

from dwindle.errors import UsageError, one_line
from dwindle.files import staged, user_cache
from dwindle.foreign import console, single_line
from dwindle.models.data import Splits, Subset, drawn
from dwindle.preprocessing import Preprocessing
from dwindle.quantities import format_bytes

Sample = tuple[str, int]
"""An image's path and its class."""
Shape = tuple[int, int, int]
"""Of an image: (channels, height, width)."""
Digests = NDArray[np.uint64]
"""Of the pixels of each image: equal where they are equal."""

VALIDATION = ("val", "validation", "valid", "dev")
"""The usual names of the folder of the validation split."""

_log = logging.getLogger(__name__)
_DECODED = "2"
"""Changes when the same files are decoded to other pixels, or kept in another layout."""
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of grey images with 16 bits; in `I`, of 32, it has those that a PNG or a PGM holds."""
_GREY = ("1", "L", *_SIXTEEN_BITS)
_ORIENTED = {"exif", "xmp", "Raw profile type exif"}
"""Where Pillow keeps what a camera says of its orientation."""
_QUARTER_TURNS = range(5, 9)
"""EXIF's orientations (CIPA DC-008, tag 0x0112) that exchange width and height."""


def load_folder(root: Path, image_size: int | None, how: Preprocessing | None = None) -> Splits:
    """The images of `root`, laid out as torchvision's ImageFolder wants them: `[split/]class/image`.

    With a `train/` subfolder, `val/` (or one of VALIDATION's other names) and `test/` are read beside it; a split that
    isn't there is carved from train, a tenth for validation and a fifth for test. Where a folder has images and no
    folders, there are no labels, and a quarter is carved for each of the two. Images become grey where all are grey,
    else RGB. With `image_size`, each is cropped to a square about its centre and scaled to that
    side, by the crop and the interpolation of `how`; without, all must be of one size. Hidden files and folders, whose
    names begin with a dot, are left out.
    What would take more than half of the free memory is decoded once into a file of the user's cache, and mapped.
    Files of other formats are passed over. How many there are is logged as a warning, as are images that are in two
    splits, and a split in which every image is of one colour or the same.
    Raises UsageError for a single class, where classes differ between splits, a file isn't an image, its pixels have
    no known range, sizes differ, or the disk has no room for that file.
    """
    if image_size is not None and image_size < 1:
        message = f"`image_size` is {image_size}: give 1 pixel or more"
        raise UsageError(message, code="out-of-range", option="image_size")
    divided = (root / "train").is_dir()
    folders = {"train": root / "train" if divided else root}
    for split, names in {"validation": VALIDATION, "test": ("test",)}.items():
        there = [root / name for name in names if divided and (root / name).is_dir()]
        if len(there) > 1:
            raise UsageError(
                f"{root} has {' and '.join(each.name for each in there)}, each of them a {split} split by its name: "
                "leave one",
                code="ambiguous",
                option="data",
                path=root,
            )
        if there:
            folders[split] = there[0]
    listed = {split: _list(folder) for split, folder in folders.items()}
    classes = listed["train"][0]
    if len(classes) == 1:
        message = (
            f"{folders['train']} has one class folder, {classes[0]}: give two or more to tell apart, or, to calibrate "
            "without labels, that folder itself"
        )
        raise UsageError(message, code="one-class", option="data", path=folders["train"], name=classes[0])
    for split, (names, _) in listed.items():
        if names != classes:
            odd = sorted(set(names) ^ set(classes))
            message = f"{folders[split]} and {folders['train']} differ in class folders ({', '.join(odd)})"
            raise UsageError(message, code="classes-differ", option="data", path=folders[split], name=odd[0])

    width, height, mode = _common([path for _, samples in listed.values() for path, _ in samples], image_size)
    splits = {split: samples for split, (_, samples) in listed.items()}
    # Without labels nothing is trained, and half is enough to calibrate on.
    carved = {"test": 0.2, "validation": 0.1} if classes else {"test": 1 / 4, "validation": 1 / 3}
    for split, share in carved.items():
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
    for known, judged in (("train", "validation"), ("train", "test"), ("validation", "test")):
        _note_shared((known, splits[known], decoded[known][1]), (judged, splits[judged], decoded[judged][1]))
    files = tuple(path for path, _ in splits["train"])
    return Splits(**{split: subset for split, (subset, _) in decoded.items()}, classes=classes, files=files)


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image in a format that is read."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return not name.startswith(".") and name.lower().endswith(tuple(IMG_EXTENSIONS))


def _list(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """The names of the class folders, sorted, and their images; of a folder without folders its own images, as of one
    class without a name. How many other files were passed over is logged."""
    from torchvision.datasets import ImageFolder

    passed_over: Counter[str] = Counter()

    class Visible(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            found = (entry.name for entry in os.scandir(directory) if entry.is_dir())
            names = sorted(name for name in found if not name.startswith("."))
            if names:
                return names, {name: index for index, name in enumerate(names)}
            if not any(is_image_name(entry.name) for entry in Path(directory).iterdir()):
                raise FileNotFoundError("it has no folders")
            return [], {".": 0}

    def is_image(path: str) -> bool:
        inside = Path(path).relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            return False
        if is_image_name(inside.name):
            return True
        passed_over[inside.suffix.lower() or "no extension"] += 1
        return False

    try:
        found = Visible(str(folder), is_valid_file=is_image)
    except OSError as error:
        message = f"{folder} isn't a folder of class folders with images in each ({one_line(error)})"
        raise UsageError(message, code="no-images", option="data", path=folder) from error
    if passed_over:
        each = ", ".join(f"{count} with {suffix}" for suffix, count in passed_over.most_common(5))
        _note(f"{folder}: {passed_over.total()} files are not in a format that is read, and were left out ({each})")
    return tuple(found.classes), found.samples


def _common(paths: list[str], image_size: int | None) -> tuple[int, int, tuple[str, ...]]:
    """Width, height and channels that all images are read at; only headers are read."""
    first, grey = "", True
    size = (image_size, image_size) if image_size else None
    for path in paths:
        with opened(path) as image:
            grey &= image.mode in _GREY
            seen = image.size[::-1] if quarter_turned(image) else image.size
            if size is None:
                first, size = path, seen
            if image_size is None and seen != size:
                raise UsageError(
                    f"{path} is {seen[0]}x{seen[1]} pixels and {first} is {size[0]}x{size[1]}: "
                    "give `image_size`, and all are cropped and scaled to it",
                    code="sizes-differ",
                    option="image_size",
                    path=path,
                )
    assert size is not None  # a class folder has at least one image
    return *size, ("L",) if grey else ("R", "G", "B")


def _read(samples: list[Sample], shape: Shape, how: Preprocessing | None) -> tuple[Subset, Digests]:
    images, digests = np.empty((len(samples), *shape), np.uint8), np.empty(len(samples), np.uint64)
    for index, (path, _) in enumerate(samples):
        images[index] = _pixels(path, shape, how)
        digests[index] = _digest(images[index])
    return Subset(torch.from_numpy(images), _labels(samples)), digests


def _mapped(samples: list[Sample], shape: Shape, how: Preprocessing | None) -> tuple[Subset, Digests]:
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
                decoded = readers.map(partial(_pixels, shape=shape, how=how), (path for path, _ in samples))
                said = track(decoded, f"decoding to {file}", len(samples), console=console())
                for index, pixels in enumerate(said):
                    images[index] = pixels
                    digests[index] = _digest(images[index])
            images.flush()
            with scratch.open("r+b") as tail:
                tail.seek(end)
                tail.write(digests.tobytes())
    # Copy on write: torch wants what it may write to.
    subset = Subset(torch.from_numpy(np.memmap(file, np.uint8, "c", shape=whole)), _labels(samples), on_disk=True)
    return subset, np.fromfile(file, "<u8", offset=end)


def _listing(samples: list[Sample], shape: Shape, how: Preprocessing | None) -> str:
    """A name for these images at this size: a hash of their paths, sizes and times of change."""
    scaled = f" {how.resize} {how.crop_share} {how.interpolation}" if how else ""
    digest = hashlib.sha256(f"{_DECODED} {shape}{scaled}".encode())
    for path, _ in samples:
        found = Path(path).stat()
        digest.update(f"{Path(path).resolve()}\0{found.st_size} {found.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:24]


def _labels(samples: list[Sample]) -> torch.Tensor:
    return torch.tensor([label for _, label in samples], dtype=torch.int64)


def _pixels(path: str, shape: Shape, how: Preprocessing | None) -> NDArray[np.uint8]:
    """An image, upright and opaque, cropped about its centre and scaled to that shape."""
    with opened(path) as image:
        try:
            plain = eight_bits(upright(image), path).convert("L" if shape[0] == 1 else "RGB")
            pixels = np.asarray(_scaled(plain, (shape[2], shape[1]), how))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow makes of a truncated file
            message = f"{path} can't be read as an image ({one_line(error)}): mend or remove it"
            raise UsageError(message, code="unreadable", option="data", path=path) from error
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def _scaled(image: Any, size: tuple[int, int], how: Preprocessing | None) -> Any:
    from PIL import Image, ImageOps

    if how is None:
        return ImageOps.fit(image, size)
    method, border = Image.Resampling[how.interpolation.upper()], (1 - how.crop_share) / 2
    if how.resize == "shorter":
        return ImageOps.fit(image, size, method, border)
    width, height = image.size
    return image.resize(size, method, (border * width, border * height, (1 - border) * width, (1 - border) * height))


def _orientation(image: Any) -> int:
    """EXIF's, 1 to 8; 1, upright, where the header has none."""
    return int(image.getexif().get(0x0112, 1)) if image.info.keys() & _ORIENTED else 1


def quarter_turned(image: Any) -> bool:
    """Whether an image that is turned upright changes its height with its width."""
    return _orientation(image) in _QUARTER_TURNS


def upright(image: Any) -> Any:
    """The image as it is to be seen, whatever way the camera was held."""
    from PIL import ImageOps

    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def eight_bits(image: Any, path: str) -> Any:
    """The image in a mode that `convert` takes to 8 bits without loss of what it shows."""
    from PIL import Image

    if image.has_transparency_data:
        own = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own)
    if image.mode in _SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() >= 0 and levels.max() < 2**16:
            return Image.fromarray(((levels + 128) // 257).astype(np.uint8))  # 257 × 255 = 65535
    elif image.mode != "F":
        return image
    raise UsageError(
        f"{path} has pixels of {'32 bits' if image.mode == 'I' else 'floating point'}, and nothing says which range of "
        "them is black to white: convert it to 8 or 16 bits",
        code="unknown-range",
        option="data",
        path=path,
    )


def _digest(pixels: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(pixels.data, digest_size=8).digest(), "little")


def _note_sameness(split: str, subset: Subset, digests: Digests) -> None:
    """Logs where a split's images have nothing that tells them apart."""
    if not any(image.min() < image.max() for image in subset.images):
        _note(f"every image of the {split} split is of one colour, so that nothing tells them apart")
    elif len(digests) > 1 and (digests == digests[0]).all():
        _note(f"every image of the {split} split is the same, so that nothing tells them apart")


def _note_shared(known: tuple[str, list[Sample], Digests], judged: tuple[str, list[Sample], Digests]) -> None:
    """Logs which images of one split are in another too, each given as its name, its samples and their digests."""
    (before, originals, seen), (split, samples, digests) = known, judged
    shared = np.flatnonzero(np.isin(digests, seen))
    if len(shared):
        first = int(np.flatnonzero(seen == digests[shared[0]])[0])
        _note(
            f"{len(shared)} of {len(digests)} images of the {split} split are in the {before} split too, such as "
            f"{samples[shared[0]][0]}, which is the same as {originals[first][0]}: figures of that split mean less"
        )


def _note(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # of processes under torchrun the first speaks for all
        _log.warning("%s", single_line(f"note: {sentence}"))


def opened(path: str) -> Any:
    """An image of which the header is read; raises UsageError where it is none."""
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"{path} can't be read as an image ({one_line(error)}): mend or remove it"
        raise UsageError(message, code="unreadable", option="data", path=path) from error
