"""Samples of any data set of torch. What they draw at random follows from seed, training, epoch and index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset, default_collate

from dwindle.errors import UsageError, one_line
from dwindle.models.adapters.replay import generators_kept
from dwindle.models.batches import ORDER, order_of, seed_of
from dwindle.models.data import SPLITS, drawn
from dwindle.models.folder import VALIDATION
from dwindle.task import Split

TARGETS = ("labels", "label", "target")
"""The names of what is to be learnt in a sample that is a dictionary."""
CARVED: tuple[tuple[Split, float], ...] = (("test", 0.2), ("validation", 0.1))
Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Part:
    """One split: a data set by index, and what makes a batch of its samples."""

    data: Any
    collate: Collate = default_collate
    workers: int = 0

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, keys: Sequence[tuple[int, int]]) -> tuple[tuple[Tensor, ...], Tensor, tuple[str, ...] | None]:
        """The samples at (index, seed): inputs, targets, and the inputs' names where samples are dictionaries."""
        with generators_kept():
            return _parts(self._collated([_sample(self.data, key) for key in keys]))

    def _collated(self, samples: list[Any]) -> Any:
        try:
            return self.collate(samples)
        except (TypeError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"samples of the data set {type(self.data).__name__} don't make a batch ({one_line(error)}): let it "
                "give tensors of one shape, or give a DataLoader with a `collate_fn`",
                code="bad-data",
                option="data",
            ) from error

    def batches(
        self, batches: Iterator[list[tuple[int, int]]], workers: int | None
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor, tuple[str, ...] | None]]:
        """Yields the batch of each list of (index, seed), made by `workers` processes, by default as many as the
        caller's own loader has; the batches are the same to the bit with any number."""
        count = self.workers if workers is None else workers
        if not count:
            yield from map(self.batch, batches)
            return
        loader = DataLoader(
            _Keyed(self.data),
            batch_sampler=batches,
            num_workers=count,
            collate_fn=self._collated,
            worker_init_fn=_one_thread,
        )
        with generators_kept():  # a loader draws a seed that nothing here uses
            made = iter(loader)
        yield from map(_parts, made)


class _Keyed(Dataset[Any]):
    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return _sample(self.data, key)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _sample(data: Any, key: tuple[int, int]) -> Any:
    index, seed = key
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # what the data set's own code may draw from
    random.seed(seed)
    return data[index]


def _parts(batch: Any) -> tuple[tuple[Tensor, ...], Tensor, tuple[str, ...] | None]:
    """Inputs and targets of a batch, which is a pair (inputs may be several) or a dictionary."""
    if isinstance(batch, Mapping):
        target = next((name for name in TARGETS if name in batch), None)
        names = tuple(str(name) for name in batch if name != target)
        found = (*(batch[name] for name in names), None if target is None else batch[target])
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        *first, last = batch
        if len(first) == 1 and isinstance(first[0], Mapping):
            names, found = tuple(map(str, first[0])), (*first[0].values(), last)
        else:
            names, found = None, (*first, last)
    else:
        found = (None,)
    if len(found) < 2 or not all(isinstance(tensor, Tensor) for tensor in found):
        raise UsageError(
            f"a batch of the data set is a {type(batch).__name__} without inputs and targets that are tensors: let its "
            f"samples be (input, target), or dictionaries with {TARGETS[0]!r}",
            code="bad-data",
            option="data",
        )
    return tuple(found[:-1]), found[-1], names


def keys_of(count: int, size: int, seed: int, fit: int, steps: range) -> Iterator[list[tuple[int, int]]]:
    """The (index, seed) of each sample of each of `steps`, every epoch in an order of its own."""
    per_epoch = max(1, count // size)
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        order = order_of(count, seed_of(seed, ORDER, fit, epoch))[place * size : (place + 1) * size]
        yield [(int(index), seed_of(seed, fit, epoch, int(index))) for index in order]


def parts_of(data: Any) -> dict[Split, Part]:
    """The splits of a mapping by their usual names, of a sequence (train, validation, test), or of one data set.

    Each is a data set of torch with a length, or a DataLoader of one, whose batching and processes are taken over.
    What isn't there of validation and test is carved from train, at random and always alike: a tenth and a fifth.
    Raises UsageError for anything else.
    """
    if isinstance(data, Mapping):
        known = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION, "validation")}
        if unknown := [name for name in data if name not in known]:
            raise _bad(f"has a split {unknown[0]!r}: name splits {', '.join(known)}")
        given = {known[name]: part for name, part in data.items()}
        if len(given) < len(data):
            raise _bad(f"has several splits for validation: leave one of {', '.join(data)}")
    elif isinstance(data, tuple | list):
        given = dict(zip(SPLITS, data, strict=False))
    else:
        given = {"train": data}
    if "train" not in given or len(given) > len(SPLITS):
        raise _bad("is nothing to train on: give splits train, validation and test")
    parts: dict[Split, Part] = {name: _part(given[name]) for name in SPLITS if name in given}
    for name, share in CARVED:
        if name not in parts:
            train = parts["train"]
            left, out = drawn(np.zeros(len(train), np.int64), share)
            parts["train"] = Part(Subset(train.data, left.tolist()), train.collate, train.workers)
            parts[name] = Part(Subset(train.data, out.tolist()), train.collate, train.workers)
    for name, part in parts.items():
        if not len(part):
            raise _bad(f"has no samples in its {name} split")
    return parts


def _part(given: Any) -> Part:
    if isinstance(given, DataLoader):
        if given.sampler is not None and not isinstance(given.sampler, RandomSampler | SequentialSampler):
            raise _bad(
                f"is a DataLoader with a {type(given.sampler).__name__}, and the order is dwindle's, so that a run "
                "resumes: weight classes by `class_weights`, or give a task of your own"
            )
        own = _part(given.dataset)
        return Part(own.data, partial(_call, given.collate_fn), given.num_workers)
    if not (isinstance(given, Dataset) or hasattr(given, "__getitem__")) or not hasattr(given, "__len__"):
        raise _bad(f"is a {type(given).__name__}: give data sets of torch that have a length and take an index")
    return Part(given)


def _call(collate: Collate, samples: list[Any]) -> Any:
    return collate(samples)


def _bad(what: str) -> UsageError:
    return UsageError(f"the data {what}", code="bad-data", option="data")
