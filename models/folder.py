"""A folder of class folders, read into memory, or into a mapped file where it is too much for that."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from dwindle.errors import UsageError, one_line
from dwindle.files import staged, user_cache
from dwindle.models.data import Splits, Subset, drawn
from dwindle.quantities import format_bytes

Sample = tuple[str, int]
"""An image's path and its class."""
Shape = tuple[int, int, int]
"""Of an image: (channels, height, width)."""


def load_folder(root: Path, image_size: int | None) -> Splits:
    """The images of `root`, laid out as torchvision's ImageFolder wants them: `[split/]class/image`.

    With a `train/` subfolder, `val/` (or `validation/`) and `test/` are read beside it; a split that isn't
    there is carved from train, a tenth for validation and a fifth for test. Images become grey where all
    are grey, else RGB. With `image_size`, each is cropped to a square about its centre and scaled to that
    side; without, all must be of one size.
    What would take more than half of the free memory is decoded once into a file of the user's cache, and mapped.
    Raises UsageError for a single class, where classes differ between splits, a file isn't an image, sizes differ, or
    the disk has no room for that file.
    """
    if image_size is not None and image_size < 1:
        raise UsageError(f"an image size of {image_size} pixels is none: give 1 or more")
    divided = (root / "train").is_dir()
    folders = {"train": root / "train" if divided else root}
    for split, names in {"validation": ("val", "validation"), "test": ("test",)}.items():
        for name in names:
            if divided and (root / name).is_dir():
                folders[split] = root / name
    listed = {split: _list(folder) for split, folder in folders.items()}
    classes = listed["train"][0]
    if len(classes) < 2:
        raise UsageError(f"{folders['train']} has one class folder, {classes[0]}: give two or more to tell apart")
    for split, (names, _) in listed.items():
        if names != classes:
            odd = sorted(set(names) ^ set(classes))
            raise UsageError(f"{folders[split]} and {folders['train']} differ in class folders ({', '.join(odd)})")

    width, height, mode = _common([path for _, samples in listed.values() for path, _ in samples], image_size)
    splits = {split: samples for split, (_, samples) in listed.items()}
    for split, share in {"test": 0.2, "validation": 0.1}.items():
        if split not in splits:
            samples = splits["train"]
            left, out = drawn(np.array([label for _, label in samples]), share)
            splits["train"], splits[split] = [samples[i] for i in left], [samples[i] for i in out]
    shape = (len(mode), height, width)
    fits = sum(map(len, splits.values())) * math.prod(shape) <= psutil.virtual_memory().available / 2
    read = _read if fits else _mapped
    return Splits(**{split: read(samples, shape) for split, samples in splits.items()}, classes=classes)


def _list(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise UsageError(f"{folder} isn't a folder of class folders with images in each ({one_line(error)})") from error
    return tuple(found.classes), found.samples


def _common(paths: list[str], image_size: int | None) -> tuple[int, int, tuple[str, ...]]:
    """Width, height and channels that all images are read at; only headers are read."""
    first, grey = "", True
    size = (image_size, image_size) if image_size else None
    for path in paths:
        with _opened(path) as image:
            grey &= image.mode in ("1", "L")
            if size is None:
                first, size = path, image.size
            if image_size is None and image.size != size:
                raise UsageError(
                    f"{path} is {image.width}x{image.height} pixels and {first} is {size[0]}x{size[1]}: "
                    "give an image size, and all are cropped and scaled to it"
                )
    assert size is not None  # a class folder has at least one image
    return *size, ("L",) if grey else ("R", "G", "B")


def _read(samples: list[Sample], shape: Shape) -> Subset:
    images = np.empty((len(samples), *shape), np.uint8)
    for index, (path, _) in enumerate(samples):
        images[index] = _pixels(path, shape)
    return Subset(torch.from_numpy(images), _labels(samples))


def _mapped(samples: list[Sample], shape: Shape) -> Subset:
    """As `_read`, in a file that the system pages in as it is needed. It is written once for the same images."""
    whole = (len(samples), *shape)
    file = user_cache() / "images" / f"{_listing(samples, shape)}.u8"
    if not file.exists():
        with staged(file) as scratch:
            free = shutil.disk_usage(scratch.parent).free
            if math.prod(whole) > free:
                raise UsageError(
                    f"{len(samples)} images take {format_bytes(math.prod(whole))}, too much for memory, and "
                    f"{file.parent} has {format_bytes(free)} left to decode them to: give a "
                    "smaller image size, fewer images, or another cache in XDG_CACHE_HOME"
                )
            images = np.memmap(scratch, np.uint8, "w+", shape=whole)
            with ThreadPoolExecutor(os.cpu_count()) as readers:
                decoded = readers.map(partial(_pixels, shape=shape), (path for path, _ in samples))
                said = track(decoded, f"decoding to {file}", len(samples), console=Console(stderr=True))
                for index, pixels in enumerate(said):
                    images[index] = pixels
            images.flush()
    # Copy on write: torch wants what it may write to.
    return Subset(torch.from_numpy(np.memmap(file, np.uint8, "c", shape=whole)), _labels(samples), on_disk=True)


def _listing(samples: list[Sample], shape: Shape) -> str:
    """A name for these images at this size: their paths, sizes and times of change."""
    digest = hashlib.sha256(str(shape).encode())
    for path, _ in samples:
        found = Path(path).stat()
        digest.update(f"{Path(path).resolve()}\0{found.st_size} {found.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:24]


def _labels(samples: list[Sample]) -> torch.Tensor:
    return torch.tensor([label for _, label in samples], dtype=torch.int64)


def _pixels(path: str, shape: Shape) -> NDArray[np.uint8]:
    """An image at that shape."""
    from PIL import ImageOps

    with _opened(path) as image:
        try:
            pixels = np.asarray(ImageOps.fit(image.convert("L" if shape[0] == 1 else "RGB"), shape[:0:-1]))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow makes of a truncated file
            raise UsageError(f"{path} can't be read as an image ({one_line(error)}): mend or remove it") from error
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def _opened(path: str) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} can't be read as an image ({one_line(error)}): mend or remove it") from error
