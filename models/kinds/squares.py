"""How images of any size become the squares that a network takes, where its source or an option says so or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dwindle.errors import UsageError
from dwindle.models.pictures import Picture, pixels
from dwindle.models.spec import TaskSpec
from dwindle.preprocessing import COLOURS, Preprocessing, normalization

LOOKED_AT = 256
"""How many images the mean and deviation are taken from, where nothing says them."""


def squares(spec: TaskSpec, pictures: Sequence[Picture], scaled: Preprocessing) -> Preprocessing:
    """How these images become inputs of `image_size`, with the mean and deviation of `normalize`, of the network's
    source, or else of some of the images themselves.

    scaled: how they are scaled and in which colours; its other values say nothing.
    Raises UsageError where no `image_size` is known, and for an image that can't be read.
    """
    how = spec.preprocessing
    side = spec.image_size or (how.size[0] if how and how.size else None)
    if side is None:
        raise UsageError(
            "images are scaled to a square: give its `image_size`", code="missing-option", option="image_size"
        )
    square = replace(scaled, size=(side, side))
    given = normalization(spec.normalize) if spec.normalize is not None else (how.mean, how.std) if how else None
    mean, std = given or _moments(pictures, side, square)
    return replace(square, mean=mean, std=std).over(len(COLOURS[scaled.colours]))


def _moments(pictures: Sequence[Picture], side: int, how: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, of values from 0 to 1, of some of the images."""
    shape = (len(COLOURS[how.colours]), side, side)
    shown = [pixels(each, shape, how) / 255 for each in pictures[:: max(1, len(pictures) // LOOKED_AT)]]
    values = np.stack(shown, 1).reshape(shape[0], -1)[:: -1 if how.colours == "BGR" else 1]
    return tuple(values.mean(1).tolist()), tuple(values.std(1).clip(1 / 255).tolist())
