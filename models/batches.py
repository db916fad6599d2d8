"""The batch of a training step, as a function of the seed, the training and the step alone.

Nothing is drawn from a generator that lives on: a run that was killed goes on with the very batches it
would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dwindle.models.augment import crop_and_flip
from dwindle.models.data import Subset

ORDER, AUGMENTATION, DROPOUT, MIXING = range(4)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of one split: each epoch in an order of its own, its last batch left out if it isn't full."""

    data: Subset
    size: int
    crop: int
    """Pixels of padding for the random crop; 0 for none."""
    flip: bool
    seed: int
    augmented: int | None = None
    """How many steps at the start of a training are augmented; None is all of them."""

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.data) // self.size)

    def plain(self, step: int) -> bool:
        """Whether the samples of a step are shown as they are."""
        return self.augmented is not None and step >= self.augmented

    def each(self, fit: int, steps: range) -> Iterator[tuple[int, Subset]]:
        """Yields every one of `steps` with its batch. Where batches have to be read from a disk, each is made while the
        one before it is trained on."""
        if not self.data.on_disk:
            yield from ((step, self.at(fit, step)) for step in steps)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.at, fit, steps.start) if steps else None
            for step in steps:
                assert coming is not None
                batch = coming.result()
                coming = reader.submit(self.at, fit, step + 1) if step + 1 in steps else None
                yield step, batch

    def at(self, fit: int, step: int) -> Subset:
        """Returns the batch of a step of the `fit`-th training, augmented if that step is."""
        epoch, place = divmod(step, self.per_epoch)
        order = order_of(len(self.data), self.stream(ORDER, fit, epoch))
        batch = self.data[order[place * self.size : (place + 1) * self.size]]
        if self.plain(step) or not (self.crop or self.flip):
            return batch
        generator = torch.Generator().manual_seed(self.stream(AUGMENTATION, fit, step))
        return Subset(crop_and_flip(batch.images, pad=self.crop, flip=self.flip, generator=generator), batch.labels)

    def stream(self, purpose: int, fit: int, index: int) -> int:
        """Returns a seed for one purpose of one step, independent of all other seeds."""
        return seed_of(self.seed, purpose, fit, index)


def seed_of(*parts: int) -> int:
    """Returns a seed, of 63 bits, that follows from these numbers and is independent of those of any others."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


@lru_cache(maxsize=2)  # an epoch's steps share one order
def order_of(count: int, seed: int) -> Tensor:
    """Returns the numbers below `count` in an order that follows from the seed, (count,) int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
