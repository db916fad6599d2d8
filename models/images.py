"""Images as a network's inputs, which is all of a task that has no labels."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.models.data import Splits
from dwindle.models.spec import NEWER, TaskSpec
from dwindle.preprocessing import COLOURS, Preprocessing, normalization
from dwindle.task import Split

SAMPLES = 256
"""How many real inputs `inputs` returns of images with labels, and at least of others where there are as many."""
SHOWN, NUMBERS = 2048, 2**25
"""More samples than SAMPLES, up to SHOWN, are returned as long as they have no more than NUMBERS values."""


class Images:
    """A task with inputs alone, of images that have no labels.

        >>> task = Images(TaskSpec("photos", image_size=32), datasets.load("photos", image_size=32))
        >>> task.inputs("validation")[0].shape
        torch.Size([75, 3, 32, 32])

    spec: the options; those of training say nothing. splits: the data, as `dwindle.models.datasets.load` returns it.
    """

    def __init__(self, spec: TaskSpec, splits: Splits) -> None:
        """Raises UsageError where the data isn't what the spec was made for."""
        if spec.fingerprint not in (None, splits.fingerprint):
            raise UsageError(
                f"the data {spec.data!r} has changed since the training: its SHA-256 is "
                f"{splits.fingerprint[:12]}…, was {str(spec.fingerprint)[:12]}…, so bring back the same data "
                "or train anew",
                code="data-changed",
                option="data",
            )
        self.spec = replace(spec, fingerprint=splits.fingerprint)
        self.splits = splits
        self.preprocessing = preprocessing_of(spec, splits)
        """How an image becomes an input of the network."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint records of this task; `dwindle.models.tasks.make_task` takes it back."""
        defaults = {each.name: each.default for each in fields(TaskSpec)}
        made = asdict(self.spec)
        left_out = {name for name in NEWER if made[name] == defaults[name]} | {"workers"}
        return {name: value for name, value in made.items() if name not in left_out}

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (channels,), on the scale of 0 to 255: samples are normalised by
        them."""
        if _given(self.spec) is None:  # not by way of a scale of 0 to 1, which would round them
            return self.splits.mean, self.splits.std
        mean, std = self.preprocessing.moments
        return torch.tensor(mean), torch.tensor(std)

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        """Returns up to 2,048 samples spread over the split, fewer, down to 256, of large images:
        ((N, channels, height, width) float32 on the CPU,)."""
        return self._spread(split, self._shown)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Returns the first training sample: ((1, channels, height, width) float32 on the CPU,)."""
        return self._spread("train", 1)

    @property
    def _shown(self) -> int:
        return min(SHOWN, max(SAMPLES, NUMBERS // self.splits.train.images[0].numel()))

    def _spread(self, split: Split, count: int) -> tuple[Tensor, ...]:
        subset = self.splits[split]
        chosen = torch.linspace(0, len(subset) - 1, min(count, len(subset))).long()
        return (self._normalized(subset.images[chosen], torch.device("cpu")).contiguous(),)

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (moment.to(device)[:, None, None] for moment in self.normalization)
        return mean, std

    def _normalized(self, images: Tensor, device: torch.device) -> Tensor:
        mean, std = self._moments(device)
        return (images.to(device).float() - mean) / std


def preprocessing_of(spec: TaskSpec, splits: Splits) -> Preprocessing:
    """How the images of a data set become inputs: as the options say, else the network's source, else by the data.

    Raises UsageError where that is for another number of channels.
    """
    channels, *size = splits.shape
    how = _given(spec)
    if how is None:
        mean, std = (tuple(moment.double().div(255).tolist()) for moment in (splits.mean, splits.std))
        how = replace(spec.preprocessing or Preprocessing(mean, std), mean=mean, std=std)
    colours = how.colours if channels == len(COLOURS[how.colours]) else "L" if channels == 1 else "RGB"
    return replace(how.over(channels), size=(size[0], size[1]), colours=colours, classes=splits.classes or None)


def _given(spec: TaskSpec) -> Preprocessing | None:
    """The preprocessing that options or the network's source say; None where pixels are normalised by the data's own
    statistics."""
    if spec.normalize is None:
        return spec.preprocessing
    given = normalization(spec.normalize)
    if given is None:
        return None
    mean, std = given
    return replace(spec.preprocessing, mean=mean, std=std) if spec.preprocessing else Preprocessing(mean, std)
