import base64
import io

import numpy as np
import pytest
from PIL import Image

from dwindle.bench.pictures import LARGEST, picture
from dwindle.preprocessing import Preprocessing

RGB = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def normalised(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """(height, width, channels) of bytes, as a network takes it."""
    shifted = pixels / 255 - np.asarray(how.mean)
    return (shifted / np.asarray(how.std)).transpose(2, 0, 1)[None].astype(np.float32)


def opened(png: str | None) -> Image.Image:
    assert png is not None
    return Image.open(io.BytesIO(base64.b64decode(png)))


def test_normalisation_is_undone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(opened(picture([normalised(pixels, RGB)], RGB))), pixels)
    blue_first = Preprocessing(mean=RGB.mean[::-1], std=RGB.std[::-1], colours="BGR")
    assert np.array_equal(np.asarray(opened(picture([normalised(pixels[..., ::-1], blue_first)], blue_first))), pixels)


def test_a_large_image_is_made_small() -> None:
    grey = Preprocessing(mean=(0.5,), std=(0.5,), colours="L")
    image = opened(picture([np.zeros((1, 1, 300, 600), np.float32)], grey))
    assert (image.size, image.mode) == ((LARGEST, LARGEST // 2), "L")


@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 8, 8), (1, 2, 8, 8)])
def test_what_is_no_such_image_has_none(shape: tuple[int, ...]) -> None:
    assert picture([np.zeros(shape, np.float32)], RGB) is None
    assert picture([np.zeros((1, 3, 8, 8), np.float32)], None) is None
    assert picture([np.zeros((1, 3, 8, 8), np.float32)] * 2, RGB) is None
