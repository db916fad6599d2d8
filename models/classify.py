"""The built-in task: image classification, of small images in memory or of photographs decoded for each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError, one_line
from dwindle.metrics import ACCURACY
from dwindle.models import ranks
from dwindle.models.batches import MIXING, Batches
from dwindle.models.data import Splits
from dwindle.models.fitting import Fitting, Step
from dwindle.models.fitting import learning_rate as learning_rate
from dwindle.models.images import SAMPLES, Images
from dwindle.models.modes import in_mode, on_device
from dwindle.models.numerics import training_device
from dwindle.models.photos.batches import PhotoBatches
from dwindle.models.photos.mix import Mix
from dwindle.models.photos.sample import Augmentation
from dwindle.models.recorded import Recorded
from dwindle.models.scoring import CLASS_METRICS, balanced, chosen, class_loss, class_metric, confusion
from dwindle.models.signature import scores_of
from dwindle.models.spec import TaskSpec as TaskSpec
from dwindle.preprocessing import Colours
from dwindle.task import Split

EVALUATION_BATCH = 256


class ImageClassification(Fitting, Images):
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
        self.samples = len(splits.train)
        self._batches = _batches(spec, splits, self.preprocessing.colours)
        self._mix = Mix(spec.mixup, spec.cutmix, len(splits.classes))
        if spec.augment < 1:
            self._batches = replace(self._batches, augmented=round(spec.augment * self.steps))
        self.metric = chosen(spec.metric, ACCURACY, CLASS_METRICS)
        labels = splits.train.labels
        self._class_weights = balanced(labels, self.classes) if spec.class_weights else None

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

    def batches(self, fit: int, steps: range) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Yields each of `steps` with its images, (N, channels, height, width), and its labels, (N,) int64 or mixed."""
        for step, batch in self._batches.each(fit, steps):
            if self._mix and not self._batches.plain(step):
                batch = self._mix.mixed(batch, self._batches.stream(MIXING, fit, step))
            yield step, (batch.images, batch.labels)

    def loss(self, forward: Callable[..., Any], inputs: Tensor, targets: Tensor, device: torch.device) -> Tensor:
        """The part of this rank, whose shard of the batch goes through the network."""
        mean, std = self._moments(device)
        shard, wanted = ranks.shard(inputs), ranks.shard(targets).to(device)
        logits = scores_of(forward((shard.to(device).float() - mean) / std)).float()
        return class_loss(logits, wanted, len(inputs), self.spec.label_smoothing, self._class_weights)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns the accuracy in percent, or another metric if the spec says so, in float32 and eval mode.

        `model` may be anything that makes logits of a batch of any size, such as a wrapper around a runtime.
        """
        device, subset = training_device(), self.splits[split]
        seen = torch.zeros(self.classes, self.classes, dtype=torch.int64)
        batches = list(zip(subset.images.split(EVALUATION_BATCH), subset.labels.split(EVALUATION_BATCH), strict=True))
        with in_mode(model, training=False), on_device(device, model):
            for images, labels in batches[ranks.rank() :: ranks.world()]:
                logits = scores_of(model(self._normalized(images, device)))
                seen += confusion(logits.argmax(1), labels, self.classes)
        return class_metric(self.metric, ranks.summed(seen))

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

    def _step(self, model: nn.Module, device: torch.device, bf16: bool) -> Step:
        step = self._plain_step(model, self._compiled(model) if self.spec.compile else model, device, bf16)
        # What is recorded is one kind of step: SGD's, on batches that are all mixed or none is.
        alike = self.spec.optimizer == "sgd" and not (self._mix and self.spec.augment < 1)
        alone = device.type == "cuda" and ranks.world() == 1 and not self.spec.compile and alike
        return Recorded(step, device, model) if alone and self.spec.record else step

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
                logits: Tensor = scores_of(compiled(images))
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
    if not splits.pictures:
        raise UsageError(
            "`photographs` are decoded from a folder, or by hf: or webdataset: leave it out for any other data",
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
        pictures=splits.pictures,
        augmentation=augmentation,
        workers=spec.workers,
    )
