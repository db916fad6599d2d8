"""Batches of photographs, decoded and augmented by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dwindle.models import ranks
from dwindle.models.batches import AUGMENTATION, ORDER, Batches, order_of, seed_of
from dwindle.models.data import Subset
from dwindle.models.photos.sample import Augmentation
from dwindle.models.pictures import Picture

Key = tuple[int, int, int]
"""A training, an epoch of it, and the index of a sample: all that a sample's randomness follows from, beside the
seed."""


@dataclass(frozen=True, eq=False)
class PhotoBatches(Batches):
    """Batches whose augmented samples are decoded anew; those that are shown as they are come from `data`.

    Where `workers` is 0 this process decodes; the batches are the same to the bit with any number.
    """

    pictures: tuple[Picture, ...] = ()
    """Each sample of `data` as it was found."""
    augmentation: Augmentation = field(kw_only=True)
    workers: int | None = None

    def each(self, fit: int, steps: range) -> Iterator[tuple[int, Subset]]:
        end = steps.stop if self.augmented is None else min(steps.stop, max(self.augmented, steps.start))
        decoded = range(steps.start, end)
        workers = self._workers()
        if workers and len(decoded) > 1:
            loader = DataLoader(
                _Samples(self),
                batch_sampler=(self._keys(fit, step) for step in decoded),
                num_workers=workers,
                worker_init_fn=_one_thread,
            )
            generator_kept = torch.random.get_rng_state()  # a loader draws a seed that nothing here uses
            batches = iter(loader)
            torch.random.set_rng_state(generator_kept)
            for step, (images, labels) in zip(decoded, batches, strict=True):
                yield step, Subset(images, labels)
        else:
            yield from ((step, self.at(fit, step)) for step in decoded)
        yield from super().each(fit, range(end, steps.stop))

    def at(self, fit: int, step: int) -> Subset:
        """Returns the batch of a step of the `fit`-th training, augmented if that step is."""
        if self.plain(step):
            return super().at(fit, step)
        keys = self._keys(fit, step)
        images = torch.stack([self.sample(key) for key in keys])
        return Subset(images, self.data.labels[[index for _, _, index in keys]])

    def sample(self, key: Key) -> Tensor:
        """Returns one augmented sample, uint8, (channels, height, width)."""
        return self.augmentation.sample(self.pictures[key[2]], seed_of(self.seed, AUGMENTATION, *key))

    def _keys(self, fit: int, step: int) -> list[Key]:
        epoch, place = divmod(step, self.per_epoch)
        order = order_of(len(self.data), self.stream(ORDER, fit, epoch))
        return [(fit, epoch, int(index)) for index in order[place * self.size : (place + 1) * self.size]]

    def _workers(self) -> int:
        """As many as are asked for; by default one for every two cores, shared by the ranks: the rest trains."""
        return max(1, (os.cpu_count() or 1) // (2 * ranks.world())) if self.workers is None else self.workers


class _Samples(Dataset[tuple[Tensor, int]]):
    def __init__(self, batches: PhotoBatches) -> None:
        self.sample, self.labels = batches.sample, batches.data.labels.tolist()

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        return self.sample(key), self.labels[key[2]]


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
