"""Every member that a task may have: those it must have, and what the absence of each other one costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dwindle.metrics import ACCURACY
from dwindle.preprocessing import Preprocessing

LABELLED = ("fit", "evaluate")
"""What a task without labels has neither of."""
REQUIRED = (*LABELLED, "example_inputs")


@dataclass(frozen=True)
class OptionalMember:
    """One optional member of a task. A member that is None counts as absent."""

    fits: Callable[[Any], bool]
    must_be: str
    """What `fits` checks, in words."""
    without: str
    """What the absence of the member costs, as a clause."""
    default: Any = None
    """What stands in for an absent value. What stands in for an absent method is in CheckedTask's method."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


OPTIONAL = {
    "optimizer": OptionalMember(
        lambda value: isinstance(value, torch.optim.Optimizer),
        "a torch.optim.Optimizer",
        "its momentum is lost whenever channels are removed",
    ),
    "state_dict": OptionalMember(callable, "a method", "a round that is interrupted starts again from its beginning"),
    "load_state_dict": OptionalMember(callable, "a method", "its optimizer starts afresh when a run resumes"),
    "inputs": OptionalMember(
        callable, "a method", "only its example inputs are there to compare files on, and to calibrate by"
    ),
    "training_inputs": OptionalMember(callable, "a method", 'batch norm is recalibrated by `inputs("train")`'),
    "labels": OptionalMember(callable, "a method", "there is no top-5, and no count of the samples that changed class"),
    "class_names": OptionalMember(
        lambda value: isinstance(value, tuple | list) and all(isinstance(name, str) for name in value),
        "a tuple of strings",
        "exported files have no class labels but those of a labels file",
    ),
    "normalization": OptionalMember(
        lambda value: isinstance(value, tuple | list) and len(value) == 2,
        "two tensors, the mean and the standard deviation of each channel",
        "no exported file can take images",
    ),
    "preprocessing": OptionalMember(
        lambda value: isinstance(value, Preprocessing),
        "a dwindle.preprocessing.Preprocessing",
        "manifests have what `normalization` and `class_names` say of images, and not how those are scaled",
    ),
    "metric": OptionalMember(
        lambda value: isinstance(value, str), "a string", "tables call its metric accuracy", default=ACCURACY
    ),
    "steps": OptionalMember(
        _is_count,
        "a whole number, 1 or more",
        "the remaining time is unknown in the first round, and gradual pruning and weight rewinding are refused",
    ),
    "classes": OptionalMember(
        _is_count, "a whole number, 1 or more", "a model is built with its own number of outputs"
    ),
    "pixel_classes": OptionalMember(
        _is_count, "a whole number, 1 or more", "a model by name has no outputs for the classes of pixels"
    ),
    "states": OptionalMember(
        lambda value: (
            isinstance(value, Mapping) and all(isinstance(name, str) for pair in value.items() for name in pair)
        ),
        "a dictionary from the names of inputs to the names of outputs",
        "no output is taken for the next call's input",
    ),
    "origin": OptionalMember(
        lambda value: isinstance(value, Mapping),
        "a dictionary that JSON can hold",
        "the checkpoint records the options that the task was made with",
    ),
}
"""Every optional member of a task, by name."""
LAST_LR = "last_lr"
"""The optional keyword of `fit`. Without it the task cannot be fine-tuned."""
