"""An image, wherever its bytes lie: a file of its own, a row of a table, a part of an archive. Opened and decoded.

What Pillow's own conversion to 8 bits would lose is kept: images of 16 bits are rescaled, transparent ones laid on
white, and those that a camera noted as rotated turned upright.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwindle.errors import UsageError, one_line
from dwindle.preprocessing import Preprocessing

Shape = tuple[int, int, int]
"""Of an image: (channels, height, width)."""

GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of grey images."""
_SIXTEEN_BITS = GREY[2:]
"""Those with 16 bits; `I`, of 32, is what a PNG or a PGM of 16 is read as."""
_ORIENTED = {"exif", "xmp", "Raw profile type exif"}
"""Where Pillow keeps what a camera says of its orientation."""
_QUARTER_TURNS = range(5, 9)
"""EXIF's orientations (CIPA DC-008, tag 0x0112) that exchange width and height."""


class Stored(ABC):
    """An image that is a part of something larger, by which `str` names it in messages."""

    @abstractmethod
    def read(self) -> bytes:
        """Its bytes, as a file of its own would have them."""

    @abstractmethod
    def identity(self) -> str:
        """What is another where the bytes may be others, found without reading them."""


Picture = str | Stored
"""A path, or an image within something larger."""


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image in a format that is read."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return not name.startswith(".") and name.lower().endswith(tuple(IMG_EXTENSIONS))


def opened(picture: Picture) -> Any:
    """An image of which the header is read; raises UsageError, with code `unreadable`, where it is none."""
    from PIL import Image

    try:
        return Image.open(picture if isinstance(picture, str) else io.BytesIO(picture.read()))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(picture, error) from error


def unreadable(picture: Picture, error: Exception) -> UsageError:
    """The error for an image that can't be decoded."""
    return UsageError(
        f"{picture} can't be read as an image ({one_line(error)}): mend or remove it, or give `skip_broken`",
        code="unreadable",
        option="data",
        path=str(picture),
    )


def is_broken(picture: Picture) -> bool:
    """Whether an image can't be decoded to its end. A JPEG is decoded small, which takes less time."""
    try:
        with opened(picture) as image:
            image.draft(None, (1, 1))
            image.load()
    except (UsageError, OSError, ValueError, SyntaxError):
        return True
    return False


def pixels(picture: Picture, shape: Shape, how: Preprocessing | None) -> NDArray[np.uint8]:
    """An image, upright and opaque, cropped about its centre and scaled to that shape."""
    with opened(picture) as image:
        try:
            plain = in_colours(eight_bits(upright(image), picture), "L" if shape[0] == 1 else "RGB")
            found = np.asarray(_scaled(plain, (shape[2], shape[1]), how))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow makes of a truncated file
            raise unreadable(picture, error) from error
    return found.reshape(*found.shape[:2], -1).transpose(2, 0, 1)


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


def in_colours(image: Any, colours: str) -> Any:
    """The image in Pillow's mode `L` or `RGB`; the same one where it is so already, which Pillow would copy."""
    return image if image.mode == colours else image.convert(colours)


def eight_bits(image: Any, picture: Picture) -> Any:
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
        f"{picture} has pixels of {'32 bits' if image.mode == 'I' else 'floating point'}, and nothing says which range "
        "of them is black to white: convert it to 8 or 16 bits",
        code="unknown-range",
        option="data",
        path=str(picture),
    )
