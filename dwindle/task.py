"""What the user brings, and the only thing compress knows of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "validation", "test"]


@runtime_checkable
class Task(Protocol):
    """A way to train a network and to judge it.

    Under torchrun every rank has one. Its `fit` has to leave the same network on all of them, which is
    checked after every round; whether they split the work is its own affair.

    Optional members, each with what its absence costs:

    - `optimizer: torch.optim.Optimizer | None` — the one `fit` uses, kept between calls. Without it,
      momentum restarts in every round.
    - `state_dict() -> dict[str, Tensor]`, `load_state_dict(state, model)` — optimizer state, random
      generators, and how far `fit` has come, flat; taken between optimizer steps. `fit` after loading a
      state from its middle goes on from there. Without them a killed round starts again from its beginning,
      with whatever the optimizer and the generators hold by then.
    - `last_lr: bool` as a keyword of `fit` — hold the schedule's last learning rate. Without it the task
      cannot be fine-tuned.
    - `inputs(split) -> tuple[Tensor, ...]` — a few hundred real inputs, batched. Without it parity is
      checked on the example inputs alone, and batch norm can't be recalibrated.
    - `training_inputs() -> tuple[Tensor, ...]` — a thousand or two as `fit` shows them at its end, augmented if they
      are then, batched; fewer if they are large. Without it batch norm is recalibrated by `inputs("train")`, which a
      network that was trained on augmented images finds a little different.
    - `labels(split) -> Tensor` — (N,) int64, the class of each sample in the order in which `evaluate` goes
      through them, where the network answers with a score per class. Without it bench counts neither top-5
      nor the samples that changed class.
    - `class_names: tuple[str, ...]` — what the scores stand for. Without it a file has no class labels but your own.
    - `normalization: tuple[Tensor, Tensor]` — mean and standard deviation of each channel of an image, on the scale 0
      to 255, where an input is one, less the mean, over the deviation. Without it no file takes images.
    - `metric: str` — what `evaluate` gives, by name. Without it tables say accuracy.
    - `steps: int` — optimizer steps in the whole schedule. Without it there is no ETA in the first round, and gradual
      pruning is refused.
    """

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Trains `model` in place from `start` (fraction of the schedule, 0 ≤ start < 1) to the end of it.

        It comes on the CPU. What moves it to a GPU, parameters and all, moves it back.

        Calls `on_step(loss)` after every optimizer step: that call re-applies the masks, so it must come
        after the step and before the next forward pass.
        """

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """The metric on a split, higher is better, in points (accuracy in percent)."""

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sample as a batch of one, float32 on the CPU: what `model(*example_inputs())` takes."""
