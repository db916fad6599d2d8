"""Samples as small pictures, for a page that shows which ones a file puts in another class."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dwindle.preprocessing import Preprocessing

LARGEST = 96
"""Pixels of a picture's longer side, at most: a page holds tens of them."""


def picture(sample: list[np.ndarray], how: Preprocessing | None) -> str | None:
    """A sample, one array (1, channels, height, width) as the network takes it, as a PNG in base64.

    `how`: what was done to the image, which is undone. None where it isn't known or the sample is no such image.
    """
    from PIL import Image

    if how is None or len(sample) != 1 or sample[0].ndim != 4 or sample[0].shape[1] != len(how.mean):
        return None
    mean, std = (np.asarray(each)[:, None, None] for each in (how.mean, how.std))
    values = np.clip(np.rint(255 * (sample[0][0] * std + mean)), 0, 255).astype(np.uint8)
    if how.colours == "BGR":
        values = values[::-1]
    image = Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0)))
    image.thumbnail((LARGEST, LARGEST))
    written = io.BytesIO()
    image.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()
