"""The task of a checkpoint that keeps samples of its data, by which files are compared and calibrated without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from dwindle.errors import UsageError
from dwindle.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask
    from dwindle.signature import Signature
    from dwindle.task import Split

SPLITS: tuple[Split, ...] = ("train", "validation")


def samples_of(task: CheckedTask, count: int) -> dict[str, Tensor]:
    """The first `count` inputs that the task gives of each of SPLITS, as `SPLIT.INPUT`, for the checkpoint to keep."""
    return {
        f"{split}.{index}": tensor[:count].detach().cpu().contiguous().clone()
        for split in SPLITS
        for index, tensor in enumerate(task.inputs(split))
    }


class KeptSamples:
    """A `dwindle.task.Task` of samples that a checkpoint keeps. It neither trains nor judges.

    samples: as `samples_of` made them. preprocessing: the checkpoint's. signature: the checkpoint's, by which a network
    that takes its inputs by name is given them so; None: one after the other.
    """

    def __init__(
        self,
        samples: Mapping[str, Tensor],
        preprocessing: Preprocessing | None,
        signature: Signature | None = None,
    ) -> None:
        self._samples = samples
        self.preprocessing = preprocessing
        named = signature is not None and signature.keywords
        self._names = [one.name for one in signature.inputs] if signature and named else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where the checkpoint's preprocessing has them."""
        return self.preprocessing.classes if self.preprocessing else None

    @property
    def normalization(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of each channel, on the scale of 0 to 255, where the checkpoint has them."""
        if self.preprocessing is None:
            return None
        mean, std = self.preprocessing.moments
        return torch.tensor(mean), torch.tensor(std)

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Raises UsageError, as samples without labels train nothing."""
        raise _without_data("trained")

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Raises UsageError, as samples without labels judge nothing."""
        raise _without_data("judged")

    def inputs(self, split: Split) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns the samples of a split; those of validation for the test split, of which none are kept."""
        return self._named(self._of(split))

    def example_inputs(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Returns the first validation sample, as a batch of one."""
        return self._named(tuple(tensor[:1] for tensor in self._of("validation")))

    def _of(self, split: Split) -> tuple[Tensor, ...]:
        prefix = "train." if split == "train" else "validation."
        count = sum(name.startswith(prefix) for name in self._samples)
        return tuple(self._samples[f"{prefix}{index}"] for index in range(count))

    def _named(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        return tensors if self._names is None else dict(zip(self._names, tensors, strict=True))


def _without_data(what: str) -> UsageError:
    return UsageError(
        f"nothing is {what} by the samples that a checkpoint keeps: give its data as `data`",
        code="data-missing",
        option="data",
    )
