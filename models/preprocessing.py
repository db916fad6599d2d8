"""How an image becomes the input of a network: a part of the network, as its weights are of use with no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from dwindle.documents import Range
from dwindle.errors import UsageError

Resize = Literal["shorter", "stretch"]
Side = Annotated[int, Range(1, 2**20)]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
    colours: Literal["RGB", "BGR", "L"] = "RGB"
    """The channels, in order; `L` is one channel of grey."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of the logits; None where the source of the network has none."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise UsageError(
                f"a mean of {self.mean} and a deviation of {self.std} don't normalise an image: give as many of one as "
                "of the other, and deviations above 0",
                code="out-of-range",
                option="normalize",
            )

    @property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, of values from 0 to 255."""
        return tuple(255 * value for value in self.mean), tuple(255 * value for value in self.std)


def of_pixels(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`mean` and `std` of values from 0 to 255, as those of values from 0 to 1."""
    return tuple(value / 255 for value in mean), tuple(value / 255 for value in std)
