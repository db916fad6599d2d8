"""Judges a network that came with weights before anything is pruned: is it trained, and judged as it was trained?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dwindle.errors import UsageError
from dwindle.models.classify import ImageClassification
from dwindle.models.copies import copied

if TYPE_CHECKING:
    from torch import nn

    from dwindle.models.checked_task import CheckedTask

TRAINED = 0.25
"""The share of the way from chance to 100% from which on a network that was not said to be trained is taken for it."""
SHORT = 1.0
"""The points that weights may score below what was expected of them."""
BETTER = 5.0
"""The points by which another normalisation must be ahead for the one in use to be refused."""


@dataclass(frozen=True)
class Start:
    """What a network scored as it came."""

    metric: str
    validation: float
    chance: float | None
    """The score of guessing; None where that is unknown."""

    @property
    def share(self) -> float:
        """How far the score is on the way from chance to 100; 0 where chance is unknown."""
        return 0.0 if self.chance is None else (self.validation - self.chance) / (100 - self.chance)

    @property
    def is_trained(self) -> bool:
        """Whether it scores too well to be untrained."""
        return self.share >= TRAINED


def judged(task: CheckedTask, model: nn.Module) -> Start:
    """Judges a network on validation, on a copy."""
    chance = 100 / task.classes if task.classes and task.classes > 1 and task.metric == "accuracy" else None
    with torch.random.fork_rng(devices=[]):
        return Start(task.metric, task.tried(copied(model), "validation"), chance)


def check_weights(task: CheckedTask, model: nn.Module, start: Start, expected: float | None, chosen: bool) -> str:
    """Returns what is to be said of weights that are pruned as they came.

    expected: the score that they are known to have. chosen: whether the user chose the normalisation. Raises UsageError
    (code `implausible-weights`) where they miss it by more than SHORT points, or score far better by another
    normalisation than by the one that was taken without a word.
    """
    scored = f"the weights score {start.validation:.2f} on validation before anything is pruned"
    other = _better_otherwise(task, model, start)
    short = expected is not None and start.validation < expected - SHORT
    if other and (short or not chosen):
        name, score = other
        raise UsageError(
            f"{scored}, and {score:.2f} where pixels are normalised by {name}: give `normalize` {name}",
            code="implausible-weights",
            option="normalize",
            name=name,
        )
    if short:
        raise UsageError(
            f"{scored}, and {expected:g} were expected: give `normalize` and `image_size` as they were trained "
            "with, or the file that belongs to this model, with its classes in the same order",
            code="implausible-weights",
            option="expect_accuracy",
        )
    if start.chance is not None and not start.is_trained:
        return (
            f"warning: {scored}, where guessing scores {start.chance:.2f}: were they trained on other classes, in "
            "another order, or on images of another size (`image_size`) or that were normalised otherwise?"
        )
    return scored


def _better_otherwise(task: CheckedTask, model: nn.Module, start: Start) -> tuple[str, float] | None:
    """The normalisation, and its score, by which the weights are far better than by the task's own; None for none."""
    if not isinstance(task.given, ImageClassification) or start.chance is None:
        return None
    tried = copied(model)
    scores = {name: each.evaluate(tried, "validation") for name, each in task.given.normalized_otherwise().items()}
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name])
    ahead = Start(start.metric, scores[best], start.chance)
    return (best, scores[best]) if ahead.is_trained and scores[best] >= start.validation + BETTER else None
