"""The contract of a kind of data, and where kinds are looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dwindle.errors import UsageError
from dwindle.models.data import drawn
from dwindle.models.listed import Listed
from dwindle.models.samples import CARVED
from dwindle.models.spec import TaskSpec
from dwindle.preprocessing import Preprocessing
from dwindle.registry import names, resolve
from dwindle.task import Split

GROUP = "dwindle.data"
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """What a kind makes of the data that it finds."""

    splits: Mapping[Split, Any]
    """The three: data sets of torch as `dwindle.models.Supervised` takes them."""
    classes: tuple[str, ...] | int | None
    """The names of the classes, or how many there are; None: as many as the targets have."""
    preprocessing: Preprocessing | None = None
    """How an image becomes an input; None for other inputs."""
    exact: Mapping[str, str] = field(default_factory=dict)
    """Options of the task that lead to the very same data, where more is known than was given, such as a commit."""


Kind = Callable[[str, TaskSpec], Loaded | Listed]
"""Finds the data that follows the prefix; images with a class are only listed. Registered as PREFIX in the entry-point
group `dwindle.data`, it takes `PREFIX:WHERE`. Raises UsageError where that leads nowhere."""


def kind_of(data: str) -> tuple[str, str] | None:
    """The prefix and what follows it; None where no kind has that prefix."""
    prefix, colon, where = data.partition(":")
    return (prefix, where) if colon and prefix in names(GROUP) else None


def load_kind(data: str, spec: TaskSpec) -> Loaded | Listed:
    """What the kind of the data's prefix makes of it. Raises as `Kind` does."""
    prefix, _, where = data.partition(":")
    kind: Kind = resolve(GROUP, prefix, "kind of data")
    return kind(where, spec)


def folders(where: str, validation: tuple[str, ...]) -> dict[Split, Path]:
    """The folders of the splits within a folder: `train` with `val` and `test` beside it, or the folder itself.

    validation: the usual names of that split. Raises UsageError where there is no such folder.
    """
    root = Path(where)
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}", code="missing", option="data", path=root)
    if not (root / "train").is_dir():
        return {"train": root}
    there = {"train": root / "train", "test": root / "test"}
    found: dict[Split, Path] = {"train": there["train"]}
    if there["test"].is_dir():
        found["test"] = there["test"]
    if named := next((name for name in validation if (root / name).is_dir()), None):
        found["validation"] = root / named
    return found


def with_all_splits(samples: Mapping[Split, list[T]], label: Callable[[T], Any]) -> dict[Split, list[T]]:
    """The samples by split, with what isn't there carved from train: a fifth of each label for test, a tenth for
    validation, the same in every run."""
    made = dict(samples)
    for name, share in CARVED:
        if name not in made:
            every = made["train"]
            labels = {each: index for index, each in enumerate(dict.fromkeys(map(label, every)))}
            left, out = drawn(np.array([labels[label(one)] for one in every]), share)
            made["train"], made[name] = [every[i] for i in left], [every[i] for i in out]
    return made
