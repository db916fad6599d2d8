"""Photographs that Debian packages carry: animals, plants, food, buildings, vehicles and tools.

`tuxpaint-stamps-default`: those cut out of photographs, on white. `gcompris-qt-data`: whole photographs in WebP, found
in its resource files by their first bytes. Both are fetched by `apt-get download` and unpacked, not installed.
"""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CACHE = Path(__file__).parents[2] / "build" / "studies" / "photos"
PACKAGES = ("tuxpaint-stamps-default", "gcompris-qt-data")
STAMPS = ("animals", "plants", "food", "vehicles", "household", "hobbies")
DRAWN = frozenset({"cartoon", "mushrooms"})
RESOURCES = ("categorization", "explore_monuments", "explore_world_animals", "explore_farm_animals", "erase")
SMALLEST = 160
"""Pixels of the shorter side that a photograph must have; 100 for one cut out."""
SIZE = 224


def photographs() -> tuple[Tensor, dict[str, int]]:
    """All photographs, (N, 3, SIZE, SIZE), uint8, in an order of their own, and how many each package has."""
    for package in PACKAGES:
        if not (CACHE / package).exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "-q", "download", package], cwd=CACHE, check=True)
            (archive,) = CACHE.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", str(archive), str(CACHE / package)], check=True)
    found = {package: taken(CACHE / package) for package, taken in zip(PACKAGES, (_stamps, _resources), strict=True)}
    every = [image for images in found.values() for image in images]
    drawn = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    pixels = torch.stack([torch.from_numpy(np.array(_square(every[index]))).permute(2, 0, 1) for index in drawn])
    return pixels, {package: len(images) for package, images in found.items()}


def _stamps(folder: Path) -> list[Image.Image]:
    images = []
    for path in sorted((folder / "usr/share/tuxpaint/stamps").rglob("*.png")):
        kinds = set(path.relative_to(folder / "usr/share/tuxpaint/stamps").parts)
        if not kinds & set(STAMPS) or kinds & DRAWN or re.search("mirror|flip", path.name):
            continue
        cut = Image.open(path).convert("RGBA")
        if min(cut.size) >= 100:
            side = round(1.15 * max(cut.size))
            white = Image.new("RGB", (side, side), "white")
            white.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2), cut)
            images.append(white)
    return images


def _resources(folder: Path) -> list[Image.Image]:
    images = []
    for name in RESOURCES:
        content = (folder / f"usr/share/gcompris-qt/rcc/{name}.rcc").read_bytes()
        for place in re.finditer(rb"RIFF....WEBP", content, re.DOTALL):
            image = Image.open(io.BytesIO(content[place.start() :]))
            if min(image.size) >= SMALLEST and image.mode == "RGB":  # what has transparency is drawn
                images.append(image.convert("RGB"))
    return images


def _square(image: Image.Image) -> Image.Image:
    """As photographs are shown to ImageNet networks: the shorter side at SIZE / 0.875, and the middle of that."""
    scale = SIZE / 0.875 / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - SIZE) // 2, (resized.height - SIZE) // 2
    return resized.crop((left, top, left + SIZE, top + SIZE))
