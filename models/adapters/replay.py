"""A loader of batches that can begin anywhere in a training, and then gives what it would have given there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dwindle.models.batches import seed_of


class Replay:
    """Passes on the batches of `loader`, from batch `first` of a training on.

    Before each batch is fetched, the generators of torch, NumPy and Python are seeded by what `seeds` says, the epoch
    and the batch. So an epoch's order, what a sample's augmentation draws in this process, and the dropout of the step
    that follows are the same whenever the training is begun in its middle. To get there, the epoch's earlier batches
    are fetched and thrown away, as a loader cannot be asked for its hundredth batch.

    Any other attribute is the loader's own.
    """

    def __init__(self, loader: Iterable[Any], seeds: tuple[int, ...], first: int, per_epoch: int) -> None:
        """seeds: numbers of the run and the training. first: how many batches of the training are done. per_epoch: how
        many batches of the loader make an epoch."""
        self.loader, self.seeds, self.per_epoch = loader, seeds, per_epoch
        self.epoch, self.done = divmod(first, per_epoch)

    def __len__(self) -> int:
        return self.per_epoch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def set_epoch(self, epoch: int) -> None:
        """Ignored: the epochs are counted here, from the one that the training began in."""

    def __iter__(self) -> Iterator[Any]:
        epoch, done = self.epoch, self.done
        self.epoch, self.done = epoch + 1, 0
        for part in (self.loader, *(getattr(self.loader, name, None) for name in ("sampler", "batch_sampler"))):
            if callable(told := getattr(part, "set_epoch", None)):  # as a DistributedSampler wants to be told
                told(epoch)
        self._seed(epoch, 0)
        batches = iter(self.loader)
        for index in range(self.per_epoch):
            self._seed(epoch, index + 1)
            try:
                batch = next(batches)
            except StopIteration:
                return
            if index >= done:
                yield batch

    def _seed(self, epoch: int, index: int) -> None:
        seed = seed_of(*self.seeds, epoch, index)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Sets the generators of torch, NumPy and Python back, at the end of the block, to where they were."""
    numpy, python = np.random.get_state(), random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)
