"""The user's own task, asked: what is wrong with it is a sentence that says where, as early as it can be known."""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dwindle.errors import DwindleError, UsageError
from dwindle.models import ranks
from dwindle.models.factory import one_line

if TYPE_CHECKING:
    from torch import nn

    from dwindle.task import Split, Task


@contextmanager
def asked(member: str, kept: str = "") -> Iterator[None]:
    """Around a call of the task's `member`: whatever it raises becomes a DwindleError with the line that raised it.

    `kept` is what the message says of the work done so far.
    """
    try:
        yield
    except DwindleError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename]
        where = f"{own[-1].filename}, line {own[-1].lineno}"
        raise DwindleError(f"the task's {member} failed ({one_line(error)}; {where}){kept}") from error


def judged(task: Task, model: nn.Module, split: Split) -> float:
    """The task's metric. Raises UsageError for anything but one finite number, and as `asked` does."""
    with asked(f"evaluate on {split}"):
        own = task.evaluate(model, split)
    value: object = ranks.broadcast_from_first(lambda: own)  # a task may judge on each rank's own shard
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise UsageError(f"the task's evaluate returned {value!r} on {split}: it must return one finite float")
    return number


def step_loss(loss: object) -> float:
    """What `on_step` was given, as a float; raises UsageError where it isn't one number."""
    number = _number(loss)
    if number is None:
        raise UsageError(f"the task's fit called on_step with {loss!r}: it must be the step's loss, a float")
    return number


def sample(task: Task) -> tuple[Tensor, ...]:
    """The task's example inputs; raises UsageError where they aren't a tuple of batches of one."""
    with asked("example_inputs"):
        inputs = task.example_inputs()
    if not isinstance(inputs, tuple) or not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        what = tuple(type(one).__name__ for one in inputs) if isinstance(inputs, tuple) else type(inputs).__name__
        raise UsageError(f"the task's example_inputs returned {what}: it must be a tuple of tensors, one per argument")
    if wrong := [tuple(tensor.shape) for tensor in inputs if tensor.shape[:1] != (1,)]:
        raise UsageError(f"the task's example_inputs has shape {wrong[0]}: it must be one sample as a batch of one")
    return inputs


def steps(task: Task) -> int | None:
    """Optimizer steps of the whole schedule, where the task says so; raises UsageError where that is no number."""
    found = getattr(task, "steps", None)
    if found is not None and (not isinstance(found, int) or found < 1):
        raise UsageError(
            f"the schedule has {found!r} steps, and must have 1 or more: give more `epochs`, or mend the task's `steps`"
        )
    return found


def state_of(task: Task) -> dict[str, Tensor]:
    """The task's own state, where it has one; raises UsageError where that isn't tensors by name."""
    taken: Callable[[], Mapping[str, Tensor]] = getattr(task, "state_dict", dict)
    with asked("state_dict"):
        state = dict(taken())
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(
                f"the task's state_dict has a {type(value).__name__} as {name!r}: it must be flat, tensors by name"
            )
    return state


def rehearse(task: Task, model: nn.Module) -> None:
    """Judges the untrained model on both splits, so that what `evaluate` gets wrong costs no training."""
    own = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        for split in ("validation", "test"):
            judged(task, own, split)


def _number(value: object) -> float | None:
    """As a float where it is a number, be it NumPy's or a tensor's."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None
