"""Recipes: options of pruning and training under one name. An option that is given takes precedence over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dwindle.compress.methods import Method
from dwindle.registry import unknown_name


@dataclass(frozen=True)
class Pace:
    """How fast a run prunes, and what of its retrainings that takes."""

    prune_per_round: float = 0.2
    """The share of the surviving weights that each round removes; Renda et al. 2020 use this."""
    gradual: float = 0.0
    """The share of each retraining over which they are removed; 0: all at once, before it."""
    qat: float = 0.0
    """The last share of each retraining that trains through the rounding."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe sets."""

    score: str
    """The name of a score, of the group `dwindle.scores`."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """Options of the built-in task (`dwindle.models.TaskSpec`); a task of the user's own gets none of them."""
    recalibrate: bool = False
    """Whether each training ends by computing the statistics of batch norm anew."""
    precisions: tuple[str, ...] = ()
    """What a file that `size` limits stores weights in, where `precision` isn't given: the first of these that its
    target has; else the target's own."""
    pace: Pace = Pace()
    """What isn't given of it. `prune_per_round` and `gradual` are for single weights or blocks that are pruned to a
    given size or density by a method that retrains with the whole schedule, `qat` for precisions to train through."""


PLAIN = Recipe("magnitude")
"""What holds without a recipe: the schedule is the data set's own."""
PHOTO_BATCH = 64
PHOTO: Mapping[str, Any] = {
    "photographs": True,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 0.1,
    "batch_size": PHOTO_BATCH,
    "lr": 2e-3,
    "weight_decay": 0.02,
    "label_smoothing": 0.1,
    "clip": 1.0,
    "augment": 0.9,
    "trivial": True,
    "erase": 0.1,
    "cutmix": 1.0,
    "mixup": 0.2,
    "ema": 0.999,
}
"""How photographs are trained on from scratch, as torchvision's and timm's newer scripts do, and the last tenth of the
schedule on samples as they are."""
FINETUNE_PHOTO: Mapping[str, Any] = {
    **PHOTO,
    "lr": 3e-4,
    "area": 0.5,
    "trivial": False,
    "erase": 0.0,
    "cutmix": 0.0,
    "mixup": 0.0,
}
"""The same from pretrained weights, which know what images look like: a lower peak and weaker augmentation."""
PHOTO_RECIPES = ("photo", "finetune-photo")
_FEW_BITS = ("palette4", "int8")
"""On mobile networks, down to about four bits, fewer bits cost less accuracy for the same bytes than zeros do."""
RECIPES = {
    "paper": Recipe("magnitude", {"schedule": "step", "warmup": 0.0}),
    "photo": Recipe("magnitude", PHOTO, True, _FEW_BITS, Pace(0.75, gradual=0.5, qat=0.3)),
    "finetune-photo": Recipe("lamp", FINETUNE_PHOTO, True, _FEW_BITS, Pace(qat=0.3)),
    "best": Recipe("magnitude", {"schedule": "cosine", "warmup": 0.1, "lr": 0.2, "augment": 0.5}, recalibrate=True),
}
"""`paper` is Renda et al. 2020, §3: global magnitude, and the dense training's schedule again, which on CIFAR divides
by ten at one half and three quarters. `best` was ahead of it in `studies/rewinding` on every network: for its cosine on
two ResNets, more for ending each training on samples as they are, and by tens of points where little is left of a
MobileNetV2, for recalibration; what else was tried was not. `photo` and `finetune-photo` are for photographs, and taken
without being asked for where a folder holds them.
"""


def recipe(name: str) -> Recipe:
    """The recipe of that name; raises UsageError for an unknown one."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, list(RECIPES), option="recipe")
    return RECIPES[name]


def default_score(recipe: Recipe, method: Method, *, pretrained: bool, new_head: bool) -> str:
    """The score where none is given. AMC's agent chooses shares of the weights of largest magnitude.

    pretrained, new_head: as in `Request`. With either, a network begins with weights that were trained elsewhere and
    may have a fresh head. The weights of such a head are small beside the others: by magnitude over the whole network
    all of them go first, whatever the recipe, which `lamp` cannot do (Lee et al. 2021).
    """
    if method.search:
        return "magnitude"
    return "lamp" if (pretrained or new_head) and method.retrains else recipe.score


def photo_epochs(name: str, images: int) -> int:
    """The epochs of a recipe for photographs, by how many there are: as few as reach a number of steps that such
    networks converge in, 4,000 from scratch and 1,000 from pretrained weights."""
    least, most, steps = (20, 120, 4000) if name == "photo" else (5, 20, 1000)
    return min(most, max(least, round(steps * PHOTO_BATCH / max(1, images))))


def preset_options(recipe: Recipe, method: Method) -> dict[str, Any]:
    """Options of the built-in task that recipe and method set where they aren't given.

    The schedules of most data sets are cosines, whose last learning rate, 0, leaves nothing to fine-tune with.
    """
    return {**({"schedule": "step"} if method.last_lr else {}), **recipe.task}
