from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.errors import UsageError
from dwindle.models.data import Splits, Subset, carve


def _subset(count: int, classes: int = 3, shape: tuple[int, ...] = (2, 4, 5), seed: int = 0) -> Subset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Subset(images, torch.arange(count) % classes)


def _splits() -> Splits:
    return Splits(_subset(30), _subset(6, seed=1), _subset(9, seed=2), ("a", "b", "c"))


def test_moments_are_the_training_splits_own() -> None:
    splits = _splits()
    images = splits.train.images.double()
    torch.testing.assert_close(splits.mean.double(), images.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(splits.std.double(), images.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    other = replace(splits, test=_subset(9, seed=5), validation=_subset(6, seed=6))
    assert torch.equal(other.mean, splits.mean)


def test_a_constant_channel_can_be_normalised() -> None:
    flat = Subset(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.arange(4) % 2)
    assert Splits(flat, flat, flat, ("a", "b")).std.tolist() == [1]


def test_fingerprint_sees_every_bit_and_nothing_else() -> None:
    splits = _splits()
    assert splits.fingerprint == _splits().fingerprint
    changed = _subset(9, seed=2)
    changed.images[8, 1, 3, 4] ^= 1
    relabelled = replace(splits.train, labels=splits.train.labels.flip(0))
    others = [
        replace(splits, test=changed),
        replace(splits, train=relabelled),
        replace(splits, classes=("a", "b", "d")),
        replace(splits, validation=splits.test, test=splits.validation),
    ]
    assert len({splits.fingerprint, *(other.fingerprint for other in others)}) == 5


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.05, 0.6))
def test_carve_is_a_stratified_partition(labels: list[int], share: float) -> None:
    numbered = Subset(torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None], torch.tensor(labels))
    left, taken = carve(numbered, share)
    numbers = [part.images.flatten().tolist() for part in (left, taken)]
    assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
    assert all(part == sorted(part) for part in numbers)
    for label in set(labels):
        count, out = labels.count(label), taken.labels.tolist().count(label)
        assert out < count
        assert abs(out - share * count) <= 1
    again = carve(numbered, share)
    assert torch.equal(again[1].images, taken.images)


def test_carve_is_the_same_everywhere() -> None:
    numbered = Subset(torch.arange(20, dtype=torch.uint8)[:, None, None, None], torch.arange(20) % 2)
    assert carve(numbered, 0.3)[1].images.flatten().tolist() == [3, 4, 7, 8, 11, 16]


@pytest.mark.parametrize(
    ("subset", "sentence"),
    [
        (_subset(0), "the validation split is empty"),
        (_subset(6, shape=(2, 4, 6)), r"validation images are of shape \(2, 4, 6\) and train images of \(2, 4, 5\)"),
        (_subset(6, classes=4), "validation labels run from 0 to 3, and 3 classes are numbered 0 to 2"),
        (Subset(_subset(6).images, _subset(6).labels - 1), "labels run from -1 to 1"),
        (Subset(_subset(6).images.float(), _subset(6).labels), r"images are torch\.float32"),
        (Subset(_subset(6).images[0], _subset(6).labels), r"give uint8 of shape \(samples, channels"),
        (Subset(_subset(6).images, _subset(5).labels), r"give int64 of shape \(6,\)"),
        (Subset(_subset(6).images, _subset(6).labels.float()), r"labels are torch\.float32"),
    ],
)
def test_data_not_fit_to_train_on(subset: Subset, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        replace(_splits(), validation=subset)
