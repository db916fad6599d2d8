"""A data set: three splits of images, and what a task needs to know about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.models.pictures import Picture
from dwindle.preprocessing import Colours
from dwindle.task import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Subset:
    """Images and their classes."""

    images: Tensor
    """The images: uint8, (N, channels, height, width)."""
    labels: Tensor
    """The class of each image, as an index into the classes' names: int64, (N,)."""
    on_disk: bool = False
    """Whether the images are a mapped file rather than memory: taking some of them then reads the disk."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Subset:
        """The samples at `index`, (M,) int64."""
        return Subset(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Splits:
    """What a data set is, ours or a user's factory's.

    Training sees `train`, every choice is made on `validation`, and `test` is only ever reported.
    Raises UsageError where a split is empty, images differ in shape or labels don't index `classes`.
    """

    train: Subset
    validation: Subset
    test: Subset
    classes: tuple[str, ...]
    """The names of the classes; empty where there are no labels: those of the subsets then say nothing."""
    pictures: tuple[Picture, ...] = ()
    """Each training image as it was found, where it can be decoded again."""

    def __post_init__(self) -> None:
        for name in SPLITS:
            _check(name, self[name], len(self.classes))
            if self[name].images.shape[1:] != self.train.images.shape[1:]:
                raise UsageError(
                    f"{name} images are of shape {tuple(self[name].images.shape[1:])} and train images of "
                    f"{tuple(self.train.images.shape[1:])}: give all of them one shape"
                )

    def __getitem__(self, split: Split) -> Subset:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def in_colours(self, colours: Colours) -> Splits:
        """The same images with the channels that a network takes: grey ones three times over, RGB in another order."""
        channels = self.shape[0]

        def turned(subset: Subset) -> Subset:
            images = subset.images
            if channels == 1 and colours != "L":
                images = images.expand(-1, 3, -1, -1)
            elif channels == 3 and colours == "BGR":
                images = images.flip(1)
            return replace(subset, images=images)

        return replace(self, train=turned(self.train), validation=turned(self.validation), test=turned(self.test))

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape: (channels, height, width)."""
        return tuple(self.train.images.shape[1:])

    @cached_property
    def mean(self) -> Tensor:
        """Mean of each channel over the training split, on the scale 0 to 255: (channels,) float32."""
        return self._moments[0]

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of each channel, as `mean`; at least one grey level."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Exact, from a count of each grey level: no float copy of the images is made, nor any of all of them."""
        levels = torch.arange(256, dtype=torch.float64)
        means, stds = [], []
        for channel in self.train.images.unbind(1):
            counts = [torch.bincount(part.reshape(-1), minlength=256) for part in channel.split(4096)]
            share = torch.stack(counts).sum(0).double() / channel.numel()
            means.append((share * levels).sum())
            stds.append((share * (levels - means[-1]) ** 2).sum().sqrt().clamp(min=1))
        return torch.stack(means).float(), torch.stack(stds).float()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every split's images and labels and of the classes' names: the same data, or not."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for name in SPLITS:
            digest.update(f"{name} {tuple(self[name].images.shape)}".encode())
            for tensor in (self[name].images, self[name].labels):
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def carve(subset: Subset, share: float) -> tuple[Subset, Subset]:
    """Takes `share` of each class out of a subset: (what is left, what was taken), each in its old order."""
    left, out = drawn(subset.labels.numpy(), share)
    return subset[torch.from_numpy(left)], subset[torch.from_numpy(out)]


def drawn(labels: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices that `carve` leaves and those that it takes.

    The draw is the same in every run and on every machine, whatever the task's seed: NumPy keeps the
    stream of RandomState fixed for ever. A class never loses its last sample.
    """
    random = np.random.RandomState(0)
    taken = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        taken[members[: min(round(share * len(members)) or 1, len(members) - 1)]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def _check(name: str, subset: Subset, classes: int) -> None:
    images, labels = subset.images, subset.labels
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise UsageError(
            f"{name} images are {images.dtype} of shape {tuple(images.shape)}: "
            "give uint8 of shape (samples, channels, height, width)"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise UsageError(
            f"{name} labels are {labels.dtype} of shape {tuple(labels.shape)}: "
            f"give int64 of shape ({len(images)},), one for each image"
        )
    if not len(labels):
        raise UsageError(f"the {name} split is empty: give at least one sample, better hundreds")
    low, high = int(labels.min()), int(labels.max())
    if classes and (low < 0 or high >= classes):
        raise UsageError(
            f"{name} labels run from {low} to {high}, and {classes} classes are numbered 0 to {classes - 1}"
        )
