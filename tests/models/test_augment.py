from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dwindle.models.augment import crop_and_flip


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _versions(image: Tensor, pad: int, flip: bool) -> list[Tensor]:
    """Every picture that (C, H, W) may become."""
    _, height, width = image.shape
    padded = functional.pad(image, (pad, pad, pad, pad))
    shifted = [
        padded[:, top : top + height, left : left + width] for top in range(2 * pad + 1) for left in range(2 * pad + 1)
    ]
    return shifted + [each.flip(-1) for each in shifted] if flip else shifted


@settings(max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6),
    st.integers(0, 3), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_each_image_is_a_shifted_version_of_itself(
    count: int, channels: int, height: int, width: int, pad: int, flip: bool, seed: int
) -> None:
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=_generator())
    changed = crop_and_flip(images, pad=pad, flip=flip, generator=_generator(seed))
    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    for before, after in zip(images, changed, strict=True):
        assert any(torch.equal(after, version) for version in _versions(before, pad, flip))


@pytest.mark.parametrize(("pad", "flip"), [(1, False), (1, True), (0, True)])
def test_every_version_comes_up_about_equally_often(pad: int, flip: bool) -> None:
    image = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 3, 4)
    versions = torch.stack(_versions(image, pad, flip))
    changed = crop_and_flip(image.repeat(3600, 1, 1, 1), pad=pad, flip=flip, generator=_generator())
    counts = (changed[:, None] == versions).flatten(2).all(2).sum(0)
    assert counts.sum() == 3600
    expected = 3600 / len(versions)
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_same_generator_same_pictures() -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    first, again, other = (crop_and_flip(images, pad=2, flip=True, generator=_generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
