"""The training that the built-in tasks share: TaskSpec's optimizer and schedule, over batches that a step decides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models import optimizers, ranks, schedule
from dwindle.models.average import Average
from dwindle.models.batches import DROPOUT, seed_of
from dwindle.models.modes import in_mode
from dwindle.models.numerics import training_device
from dwindle.models.precision import bf16_gains
from dwindle.models.spec import TaskSpec

AVERAGE, POSITION = "average/", "position"

Step = Callable[[Any, Any, "float | Tensor"], Tensor]
"""Trains on inputs and targets at a learning rate, and returns the loss."""


class Fitting(ABC):
    """The part of a task that trains: `fit`, the optimizer, and what resumes both.

    The task trains on a GPU where there is one, and leaves the model where it was. Two runs of one spec on one machine
    do the same arithmetic on a CPU.
    """

    spec: TaskSpec
    samples: int
    """How many samples there are to train on."""
    training = True
    """Whether `fit` puts the network into training mode."""
    optimizer: torch.optim.Optimizer | None = None
    """The optimizer that `fit` uses, kept between its calls: LR rewinding continues with its momentum."""
    _fits, _position = 0, -1
    _average: Mapping[str, Tensor] = {}

    @abstractmethod
    def batches(self, fit: int, steps: range) -> Iterator[tuple[int, tuple[Any, Any]]]:
        """Yields each of `steps` of the `fit`-th training with its batch, inputs and targets, which follow from the
        spec's seed, the training and the step alone."""

    @abstractmethod
    def loss(self, forward: Callable[..., Any], inputs: Any, targets: Any, device: torch.device) -> Tensor:
        """This rank's part of a batch's mean loss: over the ranks the parts add up to it."""

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole schedule. An epoch's last batch is left out unless full."""
        return self.spec.epochs * max(1, self.samples // self.spec.batch_size)

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None], last_lr: bool = False) -> None:
        """Trains `model` from `start` to the end of the schedule; see `dwindle.task.Task`.

        After `load_state_dict` of a state that was taken in the middle of a training, goes on from there.
        With `last_lr` the learning rate stays at the schedule's last value. The optimizer goes on where it
        was, unless the model's trainable parameters are others than its own: then it starts afresh.
        `on_step` gets the loss as it is, be it infinite or not a number. Under torchrun the ranks split each
        batch (`dwindle.models.ranks`).
        """
        if not self.steps:
            return
        if (batch_size := min(self.spec.batch_size, self.samples)) < ranks.world():
            raise UsageError(
                f"batches of {batch_size} can't be split between {ranks.world()} ranks: start fewer ranks",
                code="out-of-range",
                option="batch_size",
            )
        if last_lr and self.spec.schedule == "cosine":
            raise UsageError(
                "a cosine schedule ends at a learning rate of 0: fine-tune with `schedule` step",
                code="conflict",
                option="schedule",
            )
        device = training_device()
        if self.optimizer is None or not optimizers.belongs(self.optimizer, model):
            self.optimizer = optimizers.make(self.spec, model)
        began = min(round(start * self.steps), self.steps - 1)
        first = self._position if self._position >= 0 else began
        bf16 = ranks.broadcast_from_first(lambda: bf16_gains(device))
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        try:
            with (
                in_mode(model, training=self.training),
                optimizers.placed(model, self.optimizer, device),
                ranks.global_batch_norm(model),
                forked,
            ):
                average = self._begin_average(model, resumed=first > began)
                train = self._step(model, device, bf16)
                for step, (inputs, targets) in self.batches(self._fits, range(first, self.steps)):
                    if average and step > began:  # after `on_step`, which put the masks on and may have saved it
                        average.update(step - began)
                    rate = self.learning_rate(self.steps - 1 if last_lr else step)
                    torch.manual_seed(seed_of(self.spec.seed, DROPOUT, self._fits, step) + ranks.rank())
                    loss = train(inputs, targets, rate)
                    self._position = step + 1
                    on_step(loss.item())
                if average:
                    average.update(self.steps - began)
                    average.settle()
        finally:
            self._position, self._average = -1, {}
        self._fits += 1
        self.optimizer.zero_grad()

    def learning_rate(self, step: int) -> float:
        """The schedule's learning rate at the middle of the step, so that no step has a rate of 0."""
        return learning_rate(self.spec, step, self.steps)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns a copy of the optimizer's state by its parameters' names (`momentum/NAME`), of the average of a
        training under way (`average/NAME`), and `position`: trainings finished, and steps done of the one under way
        (-1: none is)."""
        state = {POSITION: torch.tensor([self._fits, self._position])}
        if self.optimizer is not None:
            state |= optimizers.state_of(self.optimizer)
        return state | {AVERAGE + name: tensor.clone() for name, tensor in self._average.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Restores a state for `model`, which may be a new object: momentum is matched by the parameters' names.

        A name without momentum starts afresh. Raises CheckpointError where a shape isn't the parameter's.
        """
        optimizer = optimizers.make(self.spec, model)
        optimizers.take_state(optimizer, model, _besides((AVERAGE, POSITION), state))
        self._average = _under(AVERAGE, state)
        self.optimizer = optimizer
        self._fits, self._position = (int(value) for value in state[POSITION])

    def _step(self, model: nn.Module, device: torch.device, bf16: bool) -> Step:
        return self._plain_step(model, model, device, bf16)

    def _plain_step(self, model: nn.Module, forward: Callable[..., Any], device: torch.device, bf16: bool) -> Step:
        """Returns a function that makes one step of training on a batch, which may be on the CPU, and returns its mean
        loss. forward: the model, perhaps compiled."""
        optimizer, clip = self.optimizer, self.spec.clip
        joint = ranks.together(model) if forward is model else forward
        assert optimizer is not None
        # A recorded step can't have casts of weights that were made before it.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=device.type != "cuda")

        def cast(*inputs: Any, **named: Any) -> Any:
            with autocast:
                return joint(*inputs, **named)

        def step(inputs: Any, targets: Any, rate: float | Tensor) -> Tensor:
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = self.loss(cast, inputs, targets, device)
            optimizer.zero_grad()
            loss = ranks.backward(loss)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            return loss.detach()

        return step

    def _begin_average(self, model: nn.Module, *, resumed: bool) -> Average | None:
        if self.spec.ema is None:
            return None
        average = Average(model, self.spec.ema, self._average if resumed else None)
        self._average = average.tensors
        return average


def learning_rate(spec: TaskSpec, step: int, steps: int) -> float:
    """Returns the learning rate of a step out of `steps`: the schedule's at the middle of the step, so that no step has
    a rate of 0."""
    return spec.lr * schedule.factor(spec.schedule, (step + 0.5) / steps, spec.warmup)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _besides(prefixes: tuple[str, ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
