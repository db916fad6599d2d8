"""A task whose training is that of transformers' Trainer."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import prune

from dwindle.errors import UsageError
from dwindle.models import optimizers
from dwindle.models.adapters.position import Position, stepped
from dwindle.models.adapters.replay import Replay, generators_kept

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

    from dwindle.task import Split

SAMPLES = 256
"""How many real inputs `inputs` returns."""


class TrainerTask(Position):
    """A `dwindle.task.Task` that trains and judges by a `transformers.Trainer`.

        task = TrainerTask(Trainer(model, args, train_dataset=train, eval_dataset=held_out, compute_metrics=accuracy))


        def net():
            return task.network

    With `def loop(): return task`, `dwindle compress my_code:net --task my_code:loop --size 5MB -o net.dwindle`.

    Every training is one call of `trainer.train()`: masks are put back on after every step of the optimizer, LR
    rewinding steps the Trainer's own schedule forward to where it starts, and what was interrupted goes on from the
    batch it had come to, with the batches and the dropout it would have had. (Then the last gradients of that epoch
    are left out, where its batches are no multiple of `gradient_accumulation_steps`.)

    trainer: the Trainer, which makes its own optimizer and schedule. metric: the name under which `compute_metrics`
    returns what is judged; higher is better. scale: what it is multiplied by to be points; 100 for a share. test: the
    data set of the test split; the Trainer's `eval_dataset` where there is none. inputs: the names of the inputs that
    ship; by default those of a batch that the model's `forward` takes, without the labels.

    Raises UsageError for a Trainer that compiles, prunes, shards or spreads its model, or was handed an optimizer.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        metric: str = "accuracy",
        scale: float = 100.0,
        test: Any = None,
        inputs: tuple[str, ...] = (),
    ) -> None:
        _check(trainer)
        self.metric, self._scale, self._trainer, self._test = metric, scale, trainer, test
        self._seed = trainer.args.data_seed if trainer.args.data_seed is not None else trainer.args.seed
        with self._own(trainer):
            values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
            self._steps_per_epoch, self._per_epoch, self.steps = values[1], values[5], int(values[6] or 0)
            self._names = inputs or self._taken()
        """`steps` is the number of optimizer steps of the whole schedule."""

    @property
    def network(self) -> nn.Module:
        """The Trainer's own model."""
        model: nn.Module = self._trainer.model
        return model

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Trains `model`, of the class of `network`, from `start` to the schedule's end; see `dwindle.task.Task`."""
        first = self._first(start, self.steps)
        trainer, own = self._trainer, self._unwrapped(model)
        home = next(own.parameters()).device
        callback = _callback()(self, model, first, on_step)
        epoch, step = divmod(first, self._steps_per_epoch)
        batches = epoch * self._per_epoch + step * trainer.args.gradient_accumulation_steps
        loader, trained = trainer.get_train_dataloader, trainer.training_step

        def replayed() -> Any:
            torch.manual_seed(self._seed)  # accelerate's sampler takes its seed from torch's
            return Replay(loader(), (self._seed, self._fits), batches, self._per_epoch)

        def noted(*args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = trained(*args, **kwargs)
            callback.losses.append(loss.detach())
            return loss

        with self._own(trainer), generators_kept():
            trainer.model = trainer.model_wrapped = own.to(trainer.args.device)
            trainer.optimizer = trainer.lr_scheduler = None
            trainer.get_train_dataloader, trainer.training_step = replayed, noted
            trainer.add_callback(callback)
            try:
                trainer.train()
            finally:
                trainer.remove_callback(callback)
                del trainer.get_train_dataloader, trainer.training_step
                trainer.accelerator.unwrap_model(own, keep_fp32_wrapper=False)
                own.to(home)
                own.zero_grad()
                self._done = -1
        self._fits += 1

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns what `compute_metrics` makes of a split, in points.

        `model` may be anything that takes the inputs by name and answers as `network` does, such as a wrapper around a
        runtime.
        """
        trainer = self._trainer
        own = model if isinstance(model, type(self.network)) else _Answers(model, self._names)
        was, home = own.training, next(own.parameters(), torch.zeros(())).device
        with self._own(trainer), generators_kept():
            trainer.model = trainer.model_wrapped = own.to(trainer.args.device)
            try:
                found = trainer.evaluate(self._data(split))
            finally:
                own.to(home).train(was)
        if (name := f"eval_{self.metric}") not in found:
            raise UsageError(
                f"the Trainer's `compute_metrics` returns no {self.metric!r}: give `metric` one of "
                f"{', '.join(key.removeprefix('eval_') for key in found)}",
                code="bad-member",
                option="metric",
                name="evaluate",
            )
        return self._scale * float(found[name])

    def inputs(self, split: Split) -> dict[str, Tensor]:
        """Returns up to 256 samples of a split, batched, by the names of the inputs that ship."""
        found: list[dict[str, Tensor]] = []
        with generators_kept(), _unwarned():
            for batch in self._trainer.get_eval_dataloader(self._data(split)):
                found.append(batch)
                if sum(len(each[self._names[0]]) for each in found) >= SAMPLES:
                    break
        # Batches of text may be padded to different lengths: those of the first length are taken.
        alike = [each for each in found if each[self._names[0]].shape[1:] == found[0][self._names[0]].shape[1:]]
        return {name: torch.cat([each[name].cpu() for each in alike])[:SAMPLES] for name in self._names}

    def example_inputs(self) -> dict[str, Tensor]:
        """Returns the first evaluated sample, as a batch of one."""
        return {name: tensor[:1] for name, tensor in self.inputs("validation").items()}

    def _data(self, split: Split) -> Any:
        if split == "train":
            return self._trainer.train_dataset
        if split == "test" and self._test is not None:
            return self._test
        return self._trainer.eval_dataset

    def _taken(self) -> tuple[str, ...]:
        """The names in a batch that the model's `forward` takes, in its order, without the labels."""
        batch = next(iter(self._trainer.get_eval_dataloader()))
        names = inspect.signature(type(self._trainer.model).forward).parameters
        return tuple(name for name in names if name in batch and name not in self._trainer.label_names)

    def _unwrapped(self, model: nn.Module) -> nn.Module:
        if not isinstance(model, type(self.network)):
            raise UsageError(
                f"a TrainerTask trains what its `network` is, and was given a {type(model).__name__}: let the model's "
                "factory return `task.network`",
                code="bad-member",
                name="fit",
            )
        return model

    @contextmanager
    def _own(self, trainer: Trainer) -> Iterator[None]:
        """Gives the Trainer its own model back at the end of the block; in it, it is quiet, and saves nothing unless it
        loads its best checkpoint in the end."""
        from transformers import PrinterCallback, ProgressCallback
        from transformers.trainer_utils import SaveStrategy

        kept, saves = (trainer.model, trainer.model_wrapped), trainer.args.save_strategy
        shown = [trainer.pop_callback(kind) for kind in (ProgressCallback, PrinterCallback)]
        if not trainer.args.load_best_model_at_end:
            trainer.args.save_strategy = SaveStrategy.NO
        try:
            with _unwarned():
                yield
        finally:
            trainer.args.save_strategy = saves
            trainer.model, trainer.model_wrapped = kept
            trainer.callback_handler.model = kept[0]
            for callback in filter(None, shown):
                trainer.add_callback(callback)


@contextmanager
def _unwarned() -> Iterator[None]:
    """Within it, torch doesn't warn for each loader that there is no GPU to pin memory for, as the Trainer asks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'pin_memory' argument is set")
        yield


def _check(trainer: Trainer) -> None:
    args: Any = trainer.args
    refused = {
        "torch_compile": (args.torch_compile, "each round's network would be compiled anew"),
        "pruning": (
            prune.is_pruned(trainer.model),
            "its model has masks of its own beside dwindle's; torch.nn.utils.prune.remove makes them permanent",
        ),
        "deepspeed": (bool(args.deepspeed), "masks are put on whole weights"),
        "fsdp": (bool(args.fsdp), "masks are put on whole weights"),
        "auto_find_batch_size": (args.auto_find_batch_size, "the number of steps must be known beforehand"),
        "world_size": (args.world_size > 1 or args.n_gpu > 1, "it trains in one process, on one device"),
        "optimizers": (
            trainer.optimizer is not None or trainer.lr_scheduler is not None,
            "they hold the parameters of one model, and channel pruning makes new ones; give `optim` and "
            "`lr_scheduler_type`, or `optimizer_cls_and_kwargs`",
        ),
    }
    for name, (given, why) in refused.items():
        if given:
            raise UsageError(
                f"a TrainerTask can't use a Trainer with `{name}`: {why}", code="unsupported", option=name, name=name
            )
    if trainer.eval_dataset is None or isinstance(trainer.eval_dataset, dict) or trainer.compute_metrics is None:
        raise UsageError(
            "a TrainerTask judges by the Trainer's `eval_dataset` and `compute_metrics`: give both, one data set",
            code="missing-member",
            name="compute_metrics" if trainer.compute_metrics is None else "eval_dataset",
        )


class _Answers(nn.Module):
    """What answers inputs by name as a model of transformers', and makes no loss."""

    def __init__(self, answer: Callable[..., Any], names: tuple[str, ...]) -> None:
        super().__init__()
        self.answer, self.names = answer, names

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        given = dict(self.answer(**{name: inputs[name] for name in self.names}))
        return {"loss": next(iter(given.values())).new_zeros(()), **given}


def _callback() -> Any:
    """The class of the callback, made here as its base is transformers'."""
    from transformers import TrainerCallback

    class Held(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Calls `on_step` after every step of the optimizer, and begins a training where it is to begin."""

        def __init__(self, task: TrainerTask, model: nn.Module, first: int, on_step: Callable[[float], None]) -> None:
            self.task, self.model, self.first, self.on_step = task, model, first, on_step
            self.losses: list[Tensor] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            own = given["optimizer"].optimizer  # accelerate's wrapper has torch's
            optimizers.take_over(own, self.task.optimizer, self.model)
            self.task.optimizer = own
            stepped(given["lr_scheduler"], self.first)
            state.global_step = self.first  # `train` ends where it reaches the schedule's last step

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.task._done = state.global_step
            self.on_step(float(sum(self.losses)))
            self.losses.clear()

    return Held
