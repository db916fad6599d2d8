"""What `UltralyticsTask` hands to Ultralytics' trainer and validator, and what it refuses of their options."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from dwindle.errors import UsageError
from dwindle.models import optimizers

if TYPE_CHECKING:
    from torch import Tensor


class Held:
    """Sets a trainer to where a training of an UltralyticsTask begins, and calls `on_step` after every step."""

    def __init__(self, task: Any, model: Any, first: int, on_step: Callable[[float], None], resumed: bool) -> None:
        self.task, self.model, self.first, self.on_step, self.resumed = task, model, first, on_step, resumed
        self.step = first

    def begin(self, trainer: Any) -> None:
        """Called once the trainer has made its optimizer, schedule and average, and before its first epoch."""
        task, own = self.task, trainer.optimizer
        if trainer.accumulate != 1 or len(trainer.train_loader) != task._per_epoch:
            raise UsageError(
                "a training of Ultralytics accumulates gradients here, or has other batches than it had: give one "
                "`batch`, which fits into memory",
                code="unsupported",
                option="batch",
                name="batch",
            )
        optimizers.take_over(own, task.optimizer, self.model)
        task.optimizer = own
        trainer.start_epoch = self.first // task._per_epoch
        trainer.scheduler.last_epoch = trainer.start_epoch - 1  # the trainer steps it as an epoch begins
        self.model.criterion = self.model.init_criterion()
        for _ in range(trainer.start_epoch if hasattr(self.model.criterion, "update") else 0):
            self.model.criterion.update()  # whose weights change with the epochs
        if self.resumed and task._average:
            trainer.ema.ema.load_state_dict(task._average)
            trainer.ema.updates = task._updates
            trainer.ema.update(self.model)  # with the last step, after which the state was taken
        self.trainer, self.average = trainer, trainer.ema.update
        self.stepping, trainer.optimizer_step = trainer.optimizer_step, self.stepped
        trainer.ema.update = self.averaged
        trainer.add_callback("on_train_epoch_start", self.forgotten)

    def forgotten(self, trainer: Any) -> None:
        """What mosaics are made of are the images of this epoch alone, so that it can be begun anew."""
        data = trainer.train_loader.dataset
        if data.cache != "ram":
            for index in data.buffer:
                data.ims[index] = data.im_hw0[index] = data.im_hw[index] = None
            data.buffer.clear()

    def stepped(self) -> None:
        """A step at the rates of its place, which the trainer takes for another where an epoch begins in its middle."""
        trainer, per_epoch = self.trainer, self.task._per_epoch
        warm = trainer._get_warmup_iterations(per_epoch)
        for group in trainer.optimizer.param_groups if self.first % per_epoch else ():
            peak = group["initial_lr"] * trainer.lf(self.step // per_epoch)
            share = min(1.0, self.step / warm) if warm else 1.0
            low = trainer.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = low + (peak - low) * share
            if "momentum" in group and self.step <= warm:
                begun = trainer.args.warmup_momentum
                group["momentum"] = begun + (trainer.args.momentum - begun) * share
        self.stepping()

    def averaged(self, model: nn.Module) -> None:
        """Comes after a step of the optimizer: the masks go on before the average takes the weights up."""
        task, average = self.task, self.trainer.ema
        self.step += 1
        task._done, task._average, task._updates = self.step, average.ema.state_dict(), average.updates
        self.on_step(float(self.trainer.loss.detach()))
        self.average(model)


class Loader(DataLoader[Any]):
    def reset(self) -> None:
        """Its processes begin anew with every epoch, and so with the data set's own transforms."""


class Answers(nn.Module):
    """What answers images, in the place of a detector."""

    def __init__(self, answer: Callable[..., Any], network: Any) -> None:
        super().__init__()
        self.answer, self.stride, self.names, self.yaml = answer, network.stride, network.names, network.yaml
        self.held = nn.Parameter(torch.zeros(1))

    def fuse(self) -> Answers:
        return self

    def forward(self, images: Tensor, **_: Any) -> Any:
        return self.answer(images)


@contextmanager
def quiet() -> Iterator[None]:
    log = logging.getLogger("ultralytics")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def check(model: Any, options: Mapping[str, Any]) -> None:
    refused = {
        "resume": "dwindle resumes a training itself",
        "time": "the number of steps must be known beforehand",
        "compile": "each round's network would be compiled anew",
        "quantize": "`precision` and `qat` are dwindle's",
        "distill_model": "the teacher would be pruned with the network",
        "multi_scale": "the network that ships has one size of input",
        "freeze": "give a `density`, which leaves out what is frozen",
        "nbs": "every batch is one step of the optimizer",
        "fraction": "give a data set of so many images",
    }
    for name, why in refused.items():
        if options.get(name):
            raise UsageError(
                f"an UltralyticsTask can't train with `{name}`: {why}", code="unsupported", option=name, name=name
            )
    batch, device = options.get("batch", 16), str(options.get("device", ""))
    if not isinstance(batch, int) or batch < 1:
        raise UsageError("`batch` is found by trial: give a number", code="unsupported", option="batch", name="batch")
    if "," in device:
        raise UsageError("an UltralyticsTask trains on one device: give one", code="unsupported", option="device")
    if getattr(model, "task", None) != "detect" or not isinstance(getattr(model, "model", None), nn.Module):
        raise UsageError(
            "an UltralyticsTask is of a detector, such as YOLO('yolo11n.pt'): train networks of other tasks by a task "
            "of your own",
            code="unsupported",
            option="model",
            name=str(getattr(model, "task", type(model).__name__)),
        )
