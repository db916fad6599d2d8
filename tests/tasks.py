"""A task for tests that are about something else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dwindle.task import Split


class PlainTask:
    """Has what every task must have, and can neither train nor judge: a test overrides what it is about."""

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, split: Split) -> float:
        raise NotImplementedError

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 4),)
