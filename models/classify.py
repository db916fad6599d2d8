"""The built-in task: image classification, of small images in memory or of photographs decoded for each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.errors import UsageError, one_line
from dwindle.models import optimizers, ranks, schedule
from dwindle.models.average import Average
from dwindle.models.batches import DROPOUT, MIXING, Batches
from dwindle.models.data import Splits
from dwindle.models.images import SAMPLES, Images
from dwindle.models.modes import in_mode, on_device
from dwindle.models.numerics import training_device
from dwindle.models.photos.batches import PhotoBatches
from dwindle.models.photos.mix import Mix
from dwindle.models.photos.sample import Augmentation
from dwindle.models.precision import bf16_gains
from dwindle.models.recorded import Recorded, Step
from dwindle.models.spec import TaskSpec as TaskSpec
from dwindle.preprocessing import Colours
from dwindle.task import Split

EVALUATION_BATCH = 256
AVERAGE, POSITION = "average/", "position"


class ImageClassification(Images):
    """The built-in task: a `dwindle.task.Task` with all its optional members.

        >>> task = ImageClassification(TaskSpec("digits", epochs=3), datasets.load("digits"))
        >>> task.steps, task.classes
        (24, 10)

    spec: the options. splits: the data, as `dwindle.models.datasets.load` returns it. The task trains and judges on a
    GPU where there is one, and leaves the model where it was. Two runs of one spec on one machine do the same
    arithmetic on a CPU.
    """

    def __init__(self, spec: TaskSpec, splits: Splits) -> None:
        """Raises UsageError where the data isn't what the spec was trained on, or a crop would leave nothing of it."""
        super().__init__(spec, splits)
        if not spec.photographs and spec.crop >= (least := min(splits.shape[1:])):
            raise UsageError(
                f"`crop` is {spec.crop} pixels, and images are {least} across: give {least // 8 or 1} or so",
                code="out-of-range",
                option="crop",
            )
        self.optimizer: torch.optim.Optimizer | None = None
        """The optimizer that `fit` uses, kept between its calls: LR rewinding continues with its momentum."""
        self._batches = _batches(spec, splits, self.preprocessing.colours)
        self._mix = Mix(spec.mixup, spec.cutmix, len(splits.classes))
        if spec.augment < 1:
            self._batches = replace(self._batches, augmented=round(spec.augment * self.steps))
        self._fits, self._position = 0, -1
        self._average: Mapping[str, Tensor] = {}

    @property
    def classes(self) -> int:
        """How many logits a model of this task outputs."""
        return len(self.splits.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.splits.classes

    def normalized_otherwise(self) -> dict[str, ImageClassification]:
        """This task with each other normalisation that trained weights may want, by what `normalize` calls it."""
        names = ["data", "0-1", *(["imagenet"] if self.splits.shape[0] == 3 else [])]
        tasks = {name: ImageClassification(replace(self.spec, normalize=name), self.splits) for name in names}
        return {name: task for name, task in tasks.items() if task.preprocessing != self.preprocessing}

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole schedule. An epoch's last batch is left out unless full."""
        return self.spec.epochs * self._batches.per_epoch

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
        if (batch_size := min(self.spec.batch_size, len(self.splits.train))) < ranks.world():
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
                in_mode(model, training=True),
                optimizers.placed(model, self.optimizer, device),
                ranks.global_batch_norm(model),
                forked,
            ):
                average = self._begin_average(model, resumed=first > began)
                train = self._step(model, device, bf16)
                for step, batch in self._batches.each(self._fits, range(first, self.steps)):
                    if average and step > began:  # after `on_step`, which put the masks on and may have saved it
                        average.update(step - began)
                    if self._mix and not self._batches.plain(step):
                        batch = self._mix.mixed(batch, self._batches.stream(MIXING, self._fits, step))
                    rate = self.learning_rate(self.steps - 1 if last_lr else step)
                    torch.manual_seed(self._batches.stream(DROPOUT, self._fits, step) + ranks.rank())
                    loss = train(batch.images, batch.labels, rate)
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
        return learning_rate(self.spec, step, self.steps)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns the accuracy in percent, in float32 and eval mode.

        `model` may be anything that makes logits of a batch of any size, such as a wrapper around a runtime.
        """
        device, subset = training_device(), self.splits[split]
        correct = 0
        batches = list(zip(subset.images.split(EVALUATION_BATCH), subset.labels.split(EVALUATION_BATCH), strict=True))
        with in_mode(model, training=False), on_device(device, model):
            for images, labels in batches[ranks.rank() :: ranks.world()]:
                logits = model(self._normalized(images, device))
                correct += int((logits.argmax(1) == labels.to(logits.device)).sum())
        return 100 * ranks.total(correct) / len(subset)

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        """Returns up to 256 samples spread over the split: ((N, channels, height, width) float32 on the CPU,)."""
        return self._spread(split, SAMPLES)

    def training_inputs(self) -> tuple[Tensor, ...]:
        """Returns up to 2,048 samples as the end of a training sees them, augmented if it is:
        ((N, channels, height, width) float32 on the CPU,)."""
        count = self._shown
        first = self._batches.augmented or 0
        steps = range(first, first + math.ceil(count / self._batches.size))
        batches = [self._batches.at(0, step).images for step in steps]
        return (self._normalized(torch.cat(batches)[:count], torch.device("cpu")).contiguous(),)

    def labels(self, split: Split) -> Tensor:
        """Returns the class of each sample, (N,) int64, in `evaluate`'s order."""
        return self.splits[split].labels

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
        """Returns a function that makes one step of training on a batch, which may be on the CPU, and returns its mean
        loss."""
        optimizer, forward = self.optimizer, self._compiled(model) if self.spec.compile else model
        assert optimizer is not None
        mean, std = self._moments(device)
        smoothing, clip = self.spec.label_smoothing, self.spec.clip
        # A recorded step can't have casts of weights that were made before it.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=device.type != "cuda")

        def step(images: Tensor, labels: Tensor, rate: float | Tensor) -> Tensor:
            for group in optimizer.param_groups:
                group["lr"] = rate
            shard = ranks.shard(images)
            with autocast:
                logits = forward((shard.to(device).float() - mean) / std)
            share = len(shard) / len(images)
            wanted = ranks.shard(labels).to(device)
            loss = share * functional.cross_entropy(logits.float(), wanted, label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            loss = ranks.sum_gradients(model.parameters(), loss)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            return loss.detach()

        # What is recorded is one kind of step: SGD's, on batches that are all mixed or none is.
        alike = self.spec.optimizer == "sgd" and not (self._mix and self.spec.augment < 1)
        alone = device.type == "cuda" and ranks.world() == 1 and not self.spec.compile and alike
        return Recorded(step, device) if alone and self.spec.record else step

    def _begin_average(self, model: nn.Module, *, resumed: bool) -> Average | None:
        if self.spec.ema is None:
            return None
        average = Average(model, self.spec.ema, self._average if resumed else None)
        self._average = average.tensors
        return average

    def _compiled(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        if ranks.world() > 1:
            raise UsageError(
                "`compile` doesn't work with several ranks: leave it out, or train in one process",
                code="conflict",
                option="compile",
            )
        torch.compiler.reset()  # it gives up at the eighth version of a network, and each round's cut makes one
        compiled = torch.compile(model)

        def forward(images: Tensor) -> Tensor:
            try:
                logits: Tensor = compiled(images)
                return logits
            except torch._dynamo.exc.TorchDynamoException as error:
                raise UsageError(
                    f"torch.compile failed ({one_line(error)}): train without `compile`",
                    code="compile-failed",
                    option="compile",
                ) from error

        return forward


def _batches(spec: TaskSpec, splits: Splits, colours: Colours) -> Batches:
    if not spec.photographs:
        return Batches(splits.train, spec.batch_size, spec.crop, spec.flip, spec.seed)
    if not splits.files:
        raise UsageError(
            "`photographs` are decoded from the files of a folder: leave it out for any other data",
            code="conflict",
            option="photographs",
        )
    augmentation = Augmentation(splits.shape, colours, spec.area, spec.flip, spec.trivial, spec.erase)
    return PhotoBatches(
        splits.train,
        spec.batch_size,
        0,
        spec.flip,
        spec.seed,
        files=splits.files,
        augmentation=augmentation,
        workers=spec.workers,
    )


def learning_rate(spec: TaskSpec, step: int, steps: int) -> float:
    """Returns the learning rate of a step out of `steps`: the schedule's at the middle of the step, so that no step has
    a rate of 0."""
    return spec.lr * schedule.factor(spec.schedule, (step + 0.5) / steps, spec.warmup)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _besides(prefixes: tuple[str, ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}
