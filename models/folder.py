"""A folder of class folders, read into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from dwindle.errors import UsageError
from dwindle.models.data import Splits, Subset, carve
from dwindle.models.factory import one_line
from dwindle.quantities import format_bytes

Sample = tuple[str, int]
"""An image's path and its class."""


def load_folder(root: Path, image_size: int | None) -> Splits:
    """The images of `root`, laid out as torchvision's ImageFolder wants them: `[split/]class/image`.

    With a `train/` subfolder, `val/` (or `validation/`) and `test/` are read beside it; a split that isn't
    there is carved from train, a tenth for validation and a fifth for test. Images become grey where all
    are grey, else RGB. With `image_size`, each is cropped to a square about its centre and scaled to that
    side; without, all must be of one size.
    Raises UsageError where classes differ between splits, a file isn't an image, sizes differ, or the whole
    would take more than half of the free memory.
    """
    divided = (root / "train").is_dir()
    folders = {"train": root / "train" if divided else root}
    for split, names in {"validation": ("val", "validation"), "test": ("test",)}.items():
        for name in names:
            if divided and (root / name).is_dir():
                folders[split] = root / name
    listed = {split: _list(folder) for split, folder in folders.items()}
    classes = listed["train"][0]
    for split, (names, _) in listed.items():
        if names != classes:
            odd = sorted(set(names) ^ set(classes))
            raise UsageError(f"{folders[split]} and {folders['train']} differ in class folders ({', '.join(odd)})")

    width, height, mode = _common([path for _, samples in listed.values() for path, _ in samples], image_size)
    count = sum(len(samples) for _, samples in listed.values())
    needed = count * width * height * len(mode)
    free = psutil.virtual_memory().available
    if needed > free / 2:
        raise UsageError(
            f"the {count} images of {root} take {format_bytes(needed)} at {width}x{height}, more than half "
            f"of the {format_bytes(free)} of free memory: give a smaller image size or fewer images"
        )
    subsets = {split: _read(samples, (width, height), mode) for split, (_, samples) in listed.items()}
    for split, share in {"test": 0.2, "validation": 0.1}.items():
        if split not in subsets:
            subsets["train"], subsets[split] = carve(subsets["train"], share)
    return Splits(**subsets, classes=classes)


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


def _read(samples: list[Sample], size: tuple[int, int], mode: tuple[str, ...]) -> Subset:
    from PIL import ImageOps

    images = torch.empty((len(samples), len(mode), size[1], size[0]), dtype=torch.uint8)
    for index, (path, _) in enumerate(samples):
        with _opened(path) as image:
            try:
                pixels = np.asarray(ImageOps.fit(image.convert("".join(mode)), size))
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow makes of a truncated file
                raise UsageError(f"{path} can't be read as an image ({one_line(error)}): mend or remove it") from error
        images[index] = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)
    return Subset(images, torch.tensor([label for _, label in samples]))


def _opened(path: str) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} can't be read as an image ({one_line(error)}): mend or remove it") from error
