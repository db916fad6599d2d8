"""The built-in training on any data set of torch: classes, classes of pixels, or several labels for each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from dwindle.errors import UsageError
from dwindle.metrics import ACCURACY
from dwindle.models import ranks
from dwindle.models.fitting import Fitting
from dwindle.models.images import SAMPLES
from dwindle.models.modes import in_mode, on_device
from dwindle.models.numerics import training_device
from dwindle.models.objects import recorded
from dwindle.models.samples import Part, keys_of, parts_of
from dwindle.models.scoring import (
    CLASS_METRICS,
    IGNORED,
    LABEL_METRICS,
    balanced,
    chosen,
    class_loss,
    class_metric,
    confusion,
    label_metric,
)
from dwindle.models.signature import leaves_of
from dwindle.models.spec import NEWER, TaskSpec
from dwindle.task import Split

DEFAULTS: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup": 0.1,
    "batch_size": 64,
    "lr": 1e-3,
    "weight_decay": 0.02,
    "clip": 1.0,
}
"""Where they differ from TaskSpec's, which are SGD's for small images."""
STEPS = 2000
"""How many steps a schedule has unless `epochs` says so."""
EVALUATION_BATCH = 64


class Supervised(Fitting):
    """A `dwindle.task.Task` on data sets of torch, whose own transforms are all that is done to samples.

        task = Supervised({"train": train, "val": held_out, "test": test}, epochs=10)

    Args:
        data: the splits, as `compress` takes them for `data`: data sets or DataLoaders by name, three of them, or one.
            A sample is (input, target), with more inputs before the target if the network takes more, or a dictionary
            whose `labels`, `label` or `target` is the target and whose other values are `forward`'s arguments by name.
        classes: how many outputs the network has, or their names. By default the train data set's own `classes`, else
            as many as its targets have.
        recorded_as: what the checkpoint records as `data`, from which the same data is made again.
        options: fields of TaskSpec. Those of images (`crop`, `mixup`, …) say nothing here.

    Targets say what is trained: a number, a class by cross entropy; a mask of numbers, the class of each pixel, of
    which 255 is left out; floats, several labels of 0 or 1. The network answers with (N, classes), with (N, classes,
    height, width), or with (N, labels); of several outputs the first is meant.

    Raises UsageError for data that can't be trained on (code `bad-data`), and for a metric that it doesn't have.
    """

    def __init__(
        self, data: Any, *, classes: int | Sequence[str] | None = None, recorded_as: str | None = None, **options: Any
    ) -> None:
        self._parts = parts_of(data)
        train = self._parts["train"]
        self.samples = len(train)
        first = _first(data)
        if isinstance(first, DataLoader):
            options = {"batch_size": first.batch_size, **options} if first.batch_size else options
            first = first.dataset
        spec = TaskSpec(**{"data": recorded_as or recorded(self), **DEFAULTS, **options})
        if "epochs" not in options:
            spec = replace(spec, epochs=max(3, min(100, round(STEPS * spec.batch_size / max(1, self.samples)))))
        inputs, target, self._names = train.batch([(0, 0)])
        self._kind = "labels" if target.is_floating_point() else "pixels" if target.dim() > 1 else "classes"
        known = LABEL_METRICS if self._kind == "labels" else CLASS_METRICS
        default = {"labels": LABEL_METRICS[0], "pixels": "mean-iou", "classes": ACCURACY}[self._kind]
        self.metric = chosen(spec.metric, default, known)
        named = classes if classes is not None else getattr(first, "classes", None)
        self._targets: Tensor | None = None
        if named is None:
            self._count = target.shape[1] if self._kind == "labels" else self._largest() + 1
        else:
            self._count = named if isinstance(named, int) else len(named)
        self.class_names = None if named is None or isinstance(named, int) else tuple(map(str, named))
        self.preprocessing = spec.preprocessing and replace(spec.preprocessing, classes=self.class_names)
        self.classes = None if self._kind == "pixels" else self._count
        self.pixel_classes = self._count if self._kind == "pixels" else None
        self._weights = balanced(self._seen(), self._count) if spec.class_weights and self._kind != "labels" else None
        found = self._fingerprint(inputs, target)
        if spec.fingerprint not in (None, found):
            raise UsageError(
                "the data has changed since the training: bring back the same data, or train anew",
                code="data-changed",
                option="data",
            )
        self.spec = replace(spec, fingerprint=found)
        self.labels = self._labels if self._kind == "classes" else None

    @property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint records of this task."""
        defaults = {each.name: each.default for each in fields(TaskSpec)}
        made = asdict(self.spec)
        kept = {name: made[name] for name in made if name not in NEWER or made[name] != defaults[name]}
        del kept["workers"]
        if self.spec.data == recorded(self):
            kept["task"] = kept.pop("data")
        return kept

    def batches(self, fit: int, steps: range) -> Iterator[tuple[int, tuple[tuple[Tensor, ...], Tensor]]]:
        """Yields each of `steps` with its inputs and targets."""
        keys = keys_of(self.samples, self.spec.batch_size, self.spec.seed, fit, steps)
        made = self._parts["train"].batches(keys, self.spec.workers)
        for step, (inputs, targets, _) in zip(steps, made, strict=True):
            yield step, (inputs, targets)

    def loss(self, forward: Callable[..., Any], inputs: Any, targets: Tensor, device: torch.device) -> Tensor:
        """The part of this rank, whose shard of the batch goes through the network."""
        shard = tuple(ranks.shard(tensor).to(device) for tensor in inputs)
        wanted, batch = ranks.shard(targets).to(device), len(targets)
        scores = self._scores(forward, shard, wanted).float()
        if self._kind == "labels":
            return len(wanted) / batch * functional.binary_cross_entropy_with_logits(scores, wanted.float())
        return class_loss(scores, wanted.long(), batch, self.spec.label_smoothing, self._weights, IGNORED)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns the metric in points, in float32 and eval mode."""
        device = training_device()
        counts = torch.zeros(self._count, self._count, dtype=torch.int64)
        answers: list[tuple[Tensor, Tensor]] = []
        every = self._kind == "labels"  # whose metrics don't add up over ranks
        part, skip = self._parts[split], 1 if every else ranks.world()
        batches = _in_order(len(part), 0 if every else ranks.rank(), skip)
        with in_mode(model, training=False), on_device(device, model):
            for inputs, targets, _ in part.batches(batches, self.spec.workers):
                scores = self._scores(model, tuple(tensor.to(device) for tensor in inputs), targets).float().cpu()
                if every:
                    answers.append((scores, targets))
                else:
                    counts += confusion(scores.argmax(1), targets.long(), self._count)
        if every:
            return label_metric(self.metric, *(torch.cat(each) for each in zip(*answers, strict=True)))
        return class_metric(self.metric, ranks.summed(counts))

    def inputs(self, split: Split) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns up to 256 samples spread over the split, batched."""
        part = self._parts[split]
        chosen = torch.linspace(0, len(part) - 1, min(SAMPLES, len(part))).long()
        return self._named(part.batch([(int(index), int(index)) for index in chosen])[0])

    def example_inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns the first sample of validation, as a batch of one."""
        return self._named(self._parts["validation"].batch([(0, 0)])[0])

    def _labels(self, split: Split) -> Tensor:
        """Returns the class of each sample, (N,) int64, in `evaluate`'s order."""
        return _targets(self._parts[split])

    def _named(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        return inputs if self._names is None else dict(zip(self._names, inputs, strict=True))

    def _scores(self, forward: Callable[..., Any], inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """The network's first output, scaled to the size of the masks where it has another."""
        given = self._named(inputs)
        answer = forward(**given) if isinstance(given, Mapping) else forward(*given)
        scores = answer if isinstance(answer, Tensor) else next(tensor for _, tensor in leaves_of(answer))
        if self._kind == "pixels" and scores.shape[2:] != targets.shape[1:]:
            return functional.interpolate(scores, targets.shape[1:], mode="bilinear")
        return scores

    def _seen(self) -> Tensor:
        """The targets of train, flat, without what is left out."""
        if self._targets is None:
            found = _targets(self._parts["train"]).flatten()
            self._targets = found[found != IGNORED] if self._kind == "pixels" else found
        return self._targets

    def _largest(self) -> int:
        return int(self._seen().max())

    def _fingerprint(self, inputs: tuple[Tensor, ...], target: Tensor) -> str:
        """SHA-256 of the splits' lengths and of the first sample: other data is noticed, though not every change."""
        digest = hashlib.sha256(str([len(part) for part in self._parts.values()]).encode())
        for tensor in (*inputs, target):
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _first(data: Any) -> Any:
    if isinstance(data, Mapping):
        return data.get("train")
    return data[0] if isinstance(data, tuple | list) and data else data


def _in_order(count: int, first: int = 0, skip: int = 1) -> Iterator[list[tuple[int, int]]]:
    for start in range(first * EVALUATION_BATCH, count, skip * EVALUATION_BATCH):
        yield [(index, index) for index in range(start, min(start + EVALUATION_BATCH, count))]


def _targets(part: Part) -> Tensor:
    return torch.cat([targets for _, targets, _ in part.batches(_in_order(len(part)), None)]).long()
