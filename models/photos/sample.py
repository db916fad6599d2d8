"""One training sample of a photograph: a random part of it, decoded no larger than needed, and augmented."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dwindle.models.pictures import Picture, eight_bits, in_colours, opened, quarter_turned, unreadable, upright
from dwindle.preprocessing import Colours


@dataclass(frozen=True)
class Augmentation:
    """How a photograph becomes a sample of `shape`, (channels, height, width)."""

    shape: tuple[int, ...]
    colours: Colours
    area: float
    """The least share of the photograph's area that a random crop shows."""
    flip: bool
    trivial: bool
    """Whether one operation of TrivialAugment (Müller & Hutter 2021) changes each sample."""
    erase: float
    """The share of samples of which a random rectangle is erased."""

    def sample(self, picture: Picture, seed: int) -> Tensor:
        """The sample that follows from a photograph and a seed: uint8, of `shape`. Raises UsageError where it
        can't be decoded."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a traceback for CUDA each time
            image = self._cropped(picture)
            for transform in self._transforms:
                image = transform(image)
        sample: Tensor = image
        return sample

    def _cropped(self, picture: Picture) -> Any:
        from PIL import Image
        from torchvision.transforms import RandomResizedCrop

        _, height, width = self.shape
        with opened(picture) as image:
            turned = quarter_turned(image)
            across, down = image.size[::-1] if turned else image.size
            # Where the crop lies follows from the header alone, so that no more than it needs has to be decoded.
            top, left, rows, columns = RandomResizedCrop.get_params(
                torch.empty(1, down, across, device="meta"), [self.area, 1.0], [3 / 4, 4 / 3]
            )
            needed = max(1, round(across * width / columns)), max(1, round(down * height / rows))
            try:
                image.draft(None, needed[::-1] if turned else needed)
                whole = in_colours(eight_bits(upright(image), picture), "L" if self.colours == "L" else "RGB")
                x, y = whole.width / across, whole.height / down
                box = (left * x, top * y, (left + columns) * x, (top + rows) * y)
                return whole.resize((width, height), Image.Resampling.BILINEAR, box)
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow makes of a truncated file
                raise unreadable(picture, error) from error

    @cached_property
    def _transforms(self) -> list[Any]:
        from torchvision.transforms import v2

        used: list[Any] = [v2.RandomHorizontalFlip()] if self.flip else []
        used += [v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)] if self.trivial else []
        used += [v2.PILToTensor()]  # up to here by Pillow, which is faster on one image
        used += [_flipped] if self.colours == "BGR" else []
        return used + ([v2.RandomErasing(self.erase, value=128)] if self.erase else [])


def _flipped(image: Tensor) -> Tensor:
    return image.flip(0)
