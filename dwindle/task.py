"""The contract of a task: what a user writes to have a network trained and judged their own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """A way to train a network and to judge it.

        class Loop:
            def fit(self, model, *, start, on_step): ...  # calls on_step(loss) after each optimizer.step()
            def evaluate(self, model, split): ...
            def example_inputs(self): ...

        compress(Request("my_code:net", task={"task": "my_code:Loop"}, density=0.1), "net.dwindle")

    `examples/plain_loop.py` is one that runs.

    `fit`, `evaluate` and `example_inputs` are required; `dwindle.models.checked_task` checks all that is listed here,
    and a name that is nearly one of these is refused as a misspelling.

    A task that has `inputs` needs no `fit` for the method `calibrate`, which trains nothing. A task without labels has
    no `evaluate` either. Networks are then judged by how like those of the dense network their answers to `inputs`
    are: in percent of the samples that have the same top class where the network gives scores of classes, a tensor of
    shape (N, classes), and else as the SQNR of its outputs in dB.

    Under torchrun every rank has a task of its own. `fit` must leave the same network on all of them, which is
    checked after every round; whether the ranks split the work between them is up to the task.

    Optional members of a task:

    - `optimizer: torch.optim.Optimizer | None` is the optimizer that `fit` uses, kept between its calls. Without it,
      momentum is lost whenever channels are removed, as it cannot be carried over to the smaller network.
    - `state_dict() -> dict[str, Tensor]` and `load_state_dict(state, model)` save and restore the optimizer's state,
      random generators, and how far `fit` has come. The dictionary is flat, and taken between optimizer steps. When
      a state from the middle of a training was loaded, `fit` goes on from there. Without them a round that was
      interrupted starts again from its beginning, with a fresh optimizer.
    - `last_lr: bool` is a keyword of `fit` that holds the schedule's last learning rate. Without it the task cannot
      be fine-tuned.
    - `inputs(split) -> tuple[Tensor, ...]` returns a few hundred real inputs of a split, batched and in the form of
      `example_inputs`. Without it files are compared on the example inputs alone, and batch norm cannot be
      recalibrated.
    - `training_inputs() -> tuple[Tensor, ...]` returns a thousand or two inputs as `fit` shows them at its end,
      batched and in the form of `example_inputs`: augmented if `fit` augments them then, and fewer if they are large.
      Without it batch norm is recalibrated by `inputs("train")`, which fits a network that was trained on augmented
      images a little less.
    - `labels(split) -> Tensor` returns the class of each sample, (N,) int64, in the order in which `evaluate` goes
      through them, for a network that answers with a score per class. Without it bench reports neither top-5 nor
      the samples whose class changed, and the accuracies of rounds have no intervals.
    - `class_names: tuple[str, ...]` names the classes, in the order of the scores. Without it an exported file has no
      class labels, unless a file of labels is given.
    - `normalization: tuple[Tensor, Tensor]` is the mean and the standard deviation of each channel of an image, on
      the scale of 0 to 255: the network's input is (pixel - mean) / deviation. Without it no exported file takes
      images.
    - `preprocessing: dwindle.preprocessing.Preprocessing` says all of how an image becomes an input: besides the above,
      its size, how it is scaled and cropped, the order of its colours. Without it the checkpoint and manifests have
      what `normalization` and `class_names` say.
    - `states: dict[str, str]` names the inputs that are an output of the call before, with that output's name, for a
      network that is fed a stream piece by piece. Without it every input is the caller's own.
    - `metric: str` is the name of what `evaluate` returns. Without it, tables call it accuracy. A task
      without labels has none of its own.
    - `steps: int` is how many optimizer steps the whole schedule has. Without it there is no remaining time in the
      first round, and gradual pruning and weight rewinding are refused.
    - `classes: int` is how many outputs a model of this task has. Without it a model is built with its own number.
    - `pixel_classes: int` is of how many classes a model of this task tells pixels, where it answers with (N, classes,
      height, width). Without it no model by name is built for it that has to know.
    - `origin: dict` is what the checkpoint records of the task, as JSON: the options from which
      `dwindle.models.make_task` makes it again. Without it the options of the request are recorded.
    """

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Trains `model` in place from `start`, a fraction of the schedule (0 <= start < 1), to the schedule's end.

        The model comes on the CPU and must be there when `fit` returns. Where `fit` moves it to a GPU, it moves its
        parameters as they are (`model.to(device)`), and moves them back.

        Calls `on_step(loss)` after every optimizer step and before the next forward pass: that call re-applies the
        masks, which keep pruned weights at zero.
        """

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns the metric of `model` on a split, in points (accuracy in percent); higher is better."""

    def example_inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns one sample as a batch of one, on the CPU, its floats in float32.

        A tuple is what `model(*example_inputs())` takes, and a dictionary what `model(**example_inputs())` does. The
        model may return a tensor, or tensors in tuples, lists, dictionaries and dataclasses; None among them is left
        out. Each tensor becomes an input or output of exported files, under the name of `forward`'s parameter or of
        the key or field.
        """


class TaskWithoutLabels(Protocol):
    """What is enough to calibrate a network that was trained elsewhere; see `Task`, whose other optional members it may
    have."""

    def inputs(self, split: Split) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns real inputs of a split, batched: those of `train` are calibrated on, hundreds of them, and networks
        are judged on those of the others."""

    def example_inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns one sample as a batch of one, as `Task.example_inputs`."""
