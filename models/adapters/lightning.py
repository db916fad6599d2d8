"""A task whose training is Lightning's: the user's module, their data and their trainer's options."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dwindle.errors import UsageError
from dwindle.models import optimizers
from dwindle.models.adapters.lightning_parts import Called, check, one_loader, one_optimizer
from dwindle.models.adapters.position import Position, stepped
from dwindle.models.adapters.replay import Replay, generators_kept

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from torch import Tensor

    from dwindle.task import Split

SAMPLES = 256
"""How many real inputs `inputs` returns."""
SHOWN = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
QUIET: dict[str, Any] = {**dict.fromkeys(SHOWN, False), "num_sanity_val_steps": 0, "devices": 1}
"""Options of the Trainer where the user gives none: dwindle saves and shows what a training does."""


class LightningTask(Position):
    """A `dwindle.task.Task` that trains and judges by a LightningModule and a LightningDataModule.

        def net():
            return Classifier()  # the LightningModule; its forward(x) is what ships


        def task():
            return LightningTask(Classifier(), Digits(), metric="acc", max_epochs=20)

    Then `dwindle compress my_code:net --task my_code:task --size 50KB -o net.dwindle`.

    The network is the LightningModule itself, or with `network="net"` its attribute of that name, which must hold all
    its trainable parameters. Every training is one call of `Trainer.fit`: masks are put back on after every step of the
    optimizer, LR rewinding steps the module's own schedule forward to where it starts, and what was interrupted goes on
    from the batch it had come to, with the batches and the dropout it would have had.

    metric: the end of the name under which `validation_step` and `test_step` log what is judged, such as `acc` for
    `val_acc` and `test_acc`; higher is better. scale: what it is multiplied by to be points; 100 for a share. seed: of
    the order of samples and all that is drawn. options: those of `lightning.pytorch.Trainer`; `max_epochs` or
    `max_steps` must be among them.

    Raises UsageError for a module that optimises by hand, with several optimizers or with masks of its own, and where
    a name leads nowhere.
    """

    def __init__(
        self,
        module: LightningModule,
        datamodule: LightningDataModule,
        *,
        metric: str = "acc",
        scale: float = 100.0,
        network: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check(module, network, options.get("callbacks") or ())
        if options.get("max_epochs", -1) < 1 and options.get("max_steps", -1) < 1:
            raise UsageError(
                "a LightningTask needs the length of a training: give `max_epochs` or `max_steps`",
                code="missing-option",
                option="max_epochs",
            )
        self.metric, self._scale = metric, scale
        self._module, self._data, self._network, self._seed = module, datamodule, network, seed
        self._options = {**QUIET, **options}
        datamodule.prepare_data()
        datamodule.setup("fit")
        self._per_epoch = self._limited(len(one_loader(datamodule.train_dataloader())))
        self._accumulated = int(options.get("accumulate_grad_batches", 1))

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole schedule."""
        epochs, most = self._options.get("max_epochs"), self._options.get("max_steps", -1)
        whole = None if epochs is None or epochs < 0 else epochs * self._steps_per_epoch
        return int(most if whole is None else whole if most < 0 else min(whole, most))

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(self._per_epoch / self._accumulated)

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Trains `model` from `start` to the end of the schedule; see `dwindle.task.Task`."""
        first = self._first(start, self.steps)
        module = self._holding(model)
        callback = _callback()(self, module, model, first, on_step)
        epoch, step = divmod(first, self._steps_per_epoch)
        batches = epoch * self._per_epoch + step * self._accumulated
        given = self._data.train_dataloader
        self._data.train_dataloader = lambda: Replay(
            one_loader(given()), (self._seed, self._fits), batches, self._per_epoch
        )
        try:
            with self._trainer(callback) as trainer, generators_kept(), one_optimizer(module):
                trainer.fit(module, datamodule=self._data)
        except SystemExit:  # Lightning's own answer to Ctrl-C
            if callback.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            self._data.train_dataloader = given
            self._done = -1
            module.trainer = None
            model.zero_grad()
        self._fits += 1

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns the metric that the module logs on a split, in points.

        `model` may be anything that answers a batch, such as a wrapper around a runtime.
        """
        answers = model if isinstance(model, nn.Module) else Called(model)
        module = self._holding(answers)
        was = module.training
        try:
            with self._trainer() as trainer, generators_kept():
                judge = trainer.test if split == "test" else trainer.validate
                loaders = None if split != "train" else one_loader(self._data.train_dataloader())
                found = judge(module, loaders, verbose=False, datamodule=None if loaders else self._data)
        finally:
            module.trainer = None
            module.train(was)
        if isinstance(answers, Called) and not answers.called:
            raise UsageError(
                f"{type(module).__name__} judges the {split} split without calling self(x), so that no exported file "
                "can be judged by it: call self(x) there, or name the part that ships as `network`",
                code="bad-member",
                name="evaluate",
            )
        logged = {name: value for each in found for name, value in each.items()}
        fits = [name for name in logged if name.endswith(self.metric)]
        if len(fits) != 1:
            raise UsageError(
                f"{'several' if fits else 'nothing'} that is logged on the {split} split ends in {self.metric!r}: "
                f"give `metric` one of {', '.join(logged) or 'those that you log by self.log'}",
                code="bad-member",
                option="metric",
                name="evaluate",
            )
        return float(self._scale * logged[fits[0]])

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        """Returns up to 256 samples of a split, batched: the first of each batch that the loader makes, or all of it
        where it is a tensor."""
        self._data.setup("test" if split == "test" else "fit")
        loaders = {
            "train": self._data.train_dataloader,
            "validation": self._data.val_dataloader,
            "test": self._data.test_dataloader,
        }
        found: list[Tensor] = []
        with generators_kept():
            for batch in Replay(loader := one_loader(loaders[split]()), (self._seed,), 0, len(loader)):
                found.append(batch if isinstance(batch, torch.Tensor) else batch[0])
                if sum(map(len, found)) >= SAMPLES:
                    break
        return (torch.cat(found)[:SAMPLES],)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Returns the first validation sample, as a batch of one."""
        return (self.inputs("validation")[0][:1],)

    def _limited(self, batches: int) -> int:
        """The number of batches of an epoch, as `limit_train_batches` says: a number of them, or a share."""
        limit = self._options.get("limit_train_batches", 1.0)
        return max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))

    @contextmanager
    def _trainer(self, *callbacks: Any) -> Iterator[Trainer]:
        """A fresh Trainer, as one remembers the epochs it has done, and quiet."""
        from lightning.pytorch import Trainer

        own = copy.deepcopy(self._options.get("callbacks") or [])
        log = logging.getLogger("lightning.pytorch")
        level = log.level
        log.setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"lightning\.")  # on workers and intervals of logging
                own = own if isinstance(own, list) else [own]
                yield Trainer(**{**self._options, "callbacks": [*callbacks, *own]})
        finally:
            log.setLevel(level)

    def _holding(self, model: Any) -> LightningModule:
        """The LightningModule that holds `model` as its network."""
        from lightning.pytorch import LightningModule

        if self._network is None and isinstance(model, LightningModule):
            return model
        module = copy.copy(self._module)
        module._modules = dict(self._module._modules)
        if self._network is None:
            module.forward = model.__call__  # what answers self(x)
            return module
        setattr(module, self._network, model)
        return module


def _callback() -> Any:
    """The class of the callback, made here as its base is Lightning's."""
    from lightning.pytorch import Callback

    class Held(Callback):  # type: ignore[misc,unused-ignore]
        """Calls `on_step` after every step of the optimizer, and begins a training where it is to begin."""

        def __init__(
            self, task: LightningTask, module: Any, model: nn.Module, first: int, on_step: Callable[[float], None]
        ) -> None:
            self.task, self.module, self.model = task, module, model
            self.first, self.seen, self.on_step = first, first, on_step
            self.losses: list[float] = []
            self.interrupted = False

        def on_train_start(self, trainer: Any, module: Any) -> None:
            optimizers.take_over(trainer.optimizers[0], self.task.optimizer, self.model)
            self.task.optimizer = trainer.optimizers[0]
            for config in trainer.lr_scheduler_configs:
                done = self.first if config.interval == "step" else self.first // self.task._steps_per_epoch
                stepped(config.scheduler, done // config.frequency)
            loop = trainer.fit_loop
            epochs = self.first // self.task._steps_per_epoch
            for counts in (loop.epoch_progress.current, loop.epoch_progress.total):
                counts.ready = counts.started = counts.processed = counts.completed = epochs
            loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = self.first

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self.losses.append(float("nan") if loss is None else float(loss))
            if trainer.global_step == self.seen:
                return
            self.seen = self.task._done = trainer.global_step
            self.on_step(sum(self.losses))  # Lightning divides each by the number that is accumulated
            self.losses.clear()

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            self.interrupted = isinstance(exception, KeyboardInterrupt)

    return Held
