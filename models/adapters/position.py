"""What tasks around another library's trainer share: how far they have come, and the optimizer's state between
trainings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from dwindle.errors import UsageError
from dwindle.models import optimizers, ranks

if TYPE_CHECKING:
    from torch import Tensor, nn

POSITION = "position"


class Position:
    """The part of a task that is the same for every trainer: `optimizer`, `state_dict` and `load_state_dict`.

    A trainer makes a fresh optimizer for each training. It takes over the state of the one before it, so that LR
    rewinding goes on with its momentum, and its schedule is stepped forward to where the training begins.
    """

    optimizer: torch.optim.Optimizer | None = None
    """The optimizer of the last training, or what holds its state until the next."""
    _fits, _done = 0, -1
    """How many trainings are finished, and how many steps of the one under way are done; -1: none is."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns a copy of the optimizer's state, and how far the trainings have come."""
        state = {POSITION: torch.tensor([self._fits, self._done])}
        return state | (optimizers.state_of(self.optimizer) if self.optimizer else {})

    def load_state_dict(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Takes up a state of `state_dict`; the next `fit` goes on from there."""
        self.optimizer = optimizers.holder(model)
        optimizers.take_state(self.optimizer, model, {name: state[name] for name in state.keys() - {POSITION}})
        self._fits, self._done = (int(value) for value in state[POSITION])

    def _first(self, start: float, steps: int) -> int:
        """The step that a training begins or goes on with; raises UsageError with several ranks."""
        if ranks.world() > 1:
            raise UsageError(
                f"a {type(self).__name__} trains in one process: run it without torchrun", code="conflict", name="fit"
            )
        return self._done if self._done >= 0 else min(round(start * steps), steps - 1)


def stepped(scheduler: torch.optim.lr_scheduler.LRScheduler, times: int) -> None:
    """Steps a fresh learning-rate schedule forward, as training would have.

    Raises UsageError for a schedule that follows a metric, which can't be known beforehand.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        if times:
            raise UsageError(
                "a ReduceLROnPlateau schedule follows a metric and can't be set to the middle of a training: use a "
                "schedule of steps or epochs, or rewind to 0",
                code="conflict",
                option="rewind_to",
                name="fit",
            )
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's, that no optimizer has stepped yet
        for _ in range(times):
            scheduler.step()
