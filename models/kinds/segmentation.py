"""`segmentation:FOLDER`: images, and masks that say the class of each of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dwindle.errors import UsageError
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.kind import Loaded, folders, with_all_splits
from dwindle.models.kinds.squares import squares
from dwindle.models.listed import broken_among
from dwindle.models.pictures import eight_bits, is_image_name, opened, unreadable, upright
from dwindle.models.scoring import IGNORED
from dwindle.models.spec import TaskSpec
from dwindle.preprocessing import Preprocessing

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
SCALED = Preprocessing((0.0,), (1.0,), None, "stretch", interpolation="bilinear")
"""How images are scaled, and their masks with them."""
LEAST_AREA = 0.5
"""The least share of an image that a training sample shows."""


def segmentation(where: str, spec: TaskSpec) -> Loaded:
    """The folder `where`, or its `train`, `val` and `test`, with `images/` and, of the same names, `masks/`.

    A mask is an image of 8 bits or with a palette, whose numbers are classes; pixels of 255 are left out. `classes.txt`
    in the folder names the classes, a line for each. Training samples are random parts of the images, mirrored where
    `flip` is on; others are scaled to a square of `image_size`. The network answers with (N, classes, height, width),
    which is scaled to the mask where it is smaller.
    Raises UsageError for an image without a mask, or that can't be read, and where no `image_size` is known.
    """
    found = {split: _pairs(folder) for split, folder in folders(where, VALIDATION).items()}
    if spec.skip_broken:
        broken = set(broken_among([str(path) for every in found.values() for pair in every for path in pair]))
        found = {split: [pair for pair in every if broken.isdisjoint(map(str, pair))] for split, every in found.items()}
    pairs = with_all_splits(found, lambda pair: None)
    made = squares(spec, [str(image) for image, _ in pairs["train"]], SCALED)
    names = Path(where, CLASSES)
    listed = tuple(names.read_text(encoding="utf-8").split("\n")) if names.is_file() else ()
    largest = max(_largest(mask) for every in pairs.values() for _, mask in every)
    classes: tuple[str, ...] | int = tuple(line.strip() for line in listed if line.strip()) or largest + 1
    if not isinstance(classes, int) and largest >= len(classes):
        raise UsageError(
            f"a mask has the class {largest}, and {names} names {len(classes)}: name the others too",
            code="classes-differ",
            option="data",
            path=names,
        )
    splits = {split: Masked(every, made, augmented=split == "train", flip=spec.flip) for split, every in pairs.items()}
    return Loaded(splits, classes, made)


class Masked(Dataset[tuple[Tensor, Tensor]]):
    """Images, (3, side, side) float32 and normalised, and their masks, (side, side) int64."""

    def __init__(
        self, pairs: list[tuple[Path, Path]], how: Preprocessing, *, augmented: bool = False, flip: bool = False
    ) -> None:
        self.pairs, self.how, self.augmented, self.flip = pairs, how, augmented, flip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors
        from torchvision.transforms import v2

        image, mask = (
            torch.from_numpy(read(str(path))) for read, path in zip((_image, _mask), self.pairs[index], strict=True)
        )
        if image.shape[1:] != mask.shape:
            raise UsageError(
                f"{self.pairs[index][1]} is of {tuple(mask.shape)} pixels and its image of {tuple(image.shape[1:])}: "
                "give a mask of the same size",
                code="sizes-differ",
                option="data",
                path=self.pairs[index][1],
            )
        assert self.how.size is not None
        size = list(self.how.size)
        steps: list[Any] = [v2.Resize(size)]
        if self.augmented:
            steps = [v2.RandomResizedCrop(size, (LEAST_AREA, 1.0)), v2.RandomHorizontalFlip(0.5 * self.flip)]
        seen, known = v2.Compose(steps)(tv_tensors.Image(image), tv_tensors.Mask(mask))
        mean, std = (torch.tensor(values)[:, None, None] for values in self.how.moments)
        return (seen.as_subclass(Tensor).float() - mean) / std, known.as_subclass(Tensor).long()


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """The images of a folder with their masks, sorted by name."""
    if not (folder / IMAGES).is_dir() or not (folder / MASKS).is_dir():
        raise UsageError(
            f"{folder} has no {IMAGES}/ and {MASKS}/: put the images into the one, and masks of the same names into "
            "the other",
            code="no-images",
            option="data",
            path=folder,
        )
    masks = {path.stem: path for path in (folder / MASKS).iterdir() if is_image_name(path.name)}
    images = sorted(path for path in (folder / IMAGES).iterdir() if is_image_name(path.name))
    if missing := [path for path in images if path.stem not in masks]:
        raise UsageError(
            f"{len(missing)} images in {folder / IMAGES} have no mask, such as {missing[0].name}: add them, or remove "
            "the images",
            code="no-labels",
            option="data",
            path=missing[0],
        )
    if not images:
        raise UsageError(f"{folder / IMAGES} has no images", code="no-images", option="data", path=folder / IMAGES)
    return [(path, masks[path.stem]) for path in images]


def _image(path: str) -> Any:
    with opened(path) as image:
        try:
            return np.asarray(eight_bits(upright(image), path).convert("RGB")).transpose(2, 0, 1).copy()
        except (OSError, ValueError, SyntaxError) as error:
            raise unreadable(path, error) from error


def _mask(path: str) -> Any:
    with opened(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise UsageError(
                f"{path} has pixels of mode {image.mode}, and a mask's are numbers of classes: save it with 8 bits of "
                "grey or a palette",
                code="unreadable",
                option="data",
                path=path,
            )
        try:
            return np.array(image, dtype=np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            raise unreadable(path, error) from error


def _largest(path: Path) -> int:
    numbers = np.unique(_mask(str(path)))
    return int(numbers[numbers != IGNORED].max(initial=0))
