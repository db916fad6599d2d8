"""Recipes: options of pruning and training under one name. An option that is given takes precedence over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwindle.compress.methods import Method
from dwindle.registry import unknown_name


@dataclass(frozen=True)
class Recipe:
    """What a recipe sets."""

    score: str
    """The name of a score, of the group `dwindle.scores`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of the built-in task (`dwindle.models.TaskSpec`); a task of the user's own gets none of them."""
    recalibrate: bool = False
    """Whether each training ends by computing the statistics of batch norm anew."""


PLAIN = Recipe("magnitude")
"""What holds without a recipe: the schedule is the data set's own."""
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
        raise unknown_name("recipe", name, list(RECIPES), option="recipe")
    return RECIPES[name]


def default_score(recipe: Recipe, method: Method) -> str:
    """The score where none is given. AMC's agent chooses shares of the weights of largest magnitude."""
    return "magnitude" if method.search else recipe.score


def preset_options(recipe: Recipe, method: Method) -> dict[str, Any]:
    """Options of the built-in task that recipe and method set where they aren't given.

    The schedules of most data sets are cosines, whose last learning rate, 0, leaves nothing to fine-tune with.
    """
    return {**({"schedule": "step"} if method.last_lr else {}), **recipe.task}
