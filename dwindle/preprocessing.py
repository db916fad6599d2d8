"""How an image becomes the input of a network: a part of the network, as its weights are of use with no other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from dwindle.documents import Range
from dwindle.errors import UsageError

Resize = Literal["shorter", "stretch"]
Side = Annotated[int, Range(1, 2**20)]

Colours = Literal["RGB", "BGR", "L"]
COLOURS: dict[Colours, tuple[str, ...]] = {"RGB": ("R", "G", "B"), "BGR": ("B", "G", "R"), "L": ("L",)}
"""The channels of an image, in order; `L` is grey."""
NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0-1": ((0.0,), (1.0,)),
}
"""Normalisations by name: mean and standard deviation."""


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it.

        >>> Preprocessing(mean=(0.5,), std=(0.25,), size=(96, 96), colours="L")

    A pixel's value, from 0 to 1, becomes (value - mean) / std. Raises UsageError where `mean` and `std` have different
    lengths, or a deviation isn't above 0.
    """

    mean: tuple[float, ...]
    """The mean of each channel, of values from 0 to 1."""
    std: tuple[float, ...]
    """The standard deviation of each channel, as `mean`."""
    size: tuple[Side, Side] | None = None
    """(height, width) of the network's input in pixels; None where the network takes images as they come."""
    resize: Resize = "shorter"
    """`shorter`: the shorter side is scaled, and the longer one with it. `stretch`: both are, whatever the shape."""
    crop_share: Annotated[float, Range(0.01, 1)] = 1.0
    """The image is scaled to `size` / `crop_share`, of which the centre of `size` is taken."""
    interpolation: str = "bicubic"
    """How pixels are interpolated: `nearest`, `bilinear`, `bicubic` or `lanczos`."""
    colours: Colours = "RGB"
    """The channels, in order; `L` is one channel of grey."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of the logits; None where the source of the network has none."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or not all(0 < value < math.inf for value in self.std):
            raise UsageError(
                f"a mean of {self.mean} and a deviation of {self.std} don't normalise an image: give as many of one as "
                "of the other, and deviations above 0",
                code="out-of-range",
                option="normalize",
            )

    def over(self, channels: int) -> Preprocessing:
        """The same for images of so many channels, where mean and deviation are one number for all of them.

        Raises UsageError where they are given for another number of channels.
        """
        if len(self.mean) == channels:
            return self
        if len(self.mean) > 1:
            raise UsageError(
                f"the mean and deviation are of {len(self.mean)} channels, and images have {channels}: give "
                f"`normalize` data, or a MEAN/STD of {channels}",
                code="out-of-range",
                option="normalize",
            )
        return replace(self, mean=self.mean * channels, std=self.std * channels)

    @property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of values from 0 to 255."""
        return tuple(255 * value for value in self.mean), tuple(255 * value for value in self.std)


def normalization(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation, of values from 0 to 1, as an option gives them; None for `data`, whose own are taken.

    `imagenet`, `0-1` (values from 0 to 1 as they are) or MEAN/STD, each one number or one per channel. Raises
    UsageError for anything else.

        >>> normalization("0.5/0.25")
        ((0.5,), (0.25,))
    """
    if text == "data":
        return None
    if text in NAMED:
        return NAMED[text]
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(
            f"`normalize` is {text!r}: give {', '.join(NAMED)}, data, or MEAN/STD of values from 0 to 1, such as "
            "0.5/0.25 or 0.48,0.46,0.41/0.23,0.22,0.22",
            code="invalid-value",
            option="normalize",
        ) from error
    Preprocessing(mean, std)  # checks them
    return mean, std
