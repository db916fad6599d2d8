"""Recipes: how weights are scored and a retraining goes, under one name. An option that is given goes before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwindle.errors import UsageError
from dwindle.registry import unknown


@dataclass(frozen=True)
class Recipe:
    """What it sets."""

    score: str
    task: Mapping[str, Any] = field(default_factory=dict)
    """Of the built-in task's options (`dwindle.models.classify.TaskSpec`); a task of the user's own has its own."""
    recalibrate: bool = False
    """Whether each training ends with batch norm's statistics taken anew."""


RECIPES = {
    "paper": Recipe("magnitude", {"schedule": "step", "warmup": 0.0}),
    "best": Recipe("magnitude", {"schedule": "cosine", "warmup": 0.1, "lr": 0.2, "augment": 0.5}, recalibrate=True),
}
"""`paper` is Renda et al. 2020, §3: global magnitude, and the dense training's schedule again, which on CIFAR divides
by ten at one half and three quarters. `best` was ahead of it in `studies/rewinding` on every network: for its cosine on
two ResNets, more for ending each training on samples as they are, and by tens of points where little is left of a
MobileNetV2, for recalibration; what else was tried was not.
"""


def recipe(name: str) -> Recipe:
    """The recipe of that name; raises UsageError for an unknown one."""
    if name not in RECIPES:
        raise UsageError(unknown("recipe", name, list(RECIPES)))
    return RECIPES[name]
