"""Distillation: a solved network is taught to answer as the dense one does, on samples without labels.

Least squares fits each layer by itself; what the layers' errors come to together, only the outputs tell. Hinton et al.
2015 teach one network by another's softened answers; here teacher and student differ by pruning alone, so that a few
passes over the samples, at a low rate and with batch norm as it is, take back a good part of what is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwindle.models.fitting import Fitting
from dwindle.models.likeness import Likeness, answers_of, are_scores
from dwindle.models.numerics import training_device
from dwindle.models.samples import keys_of
from dwindle.models.signature import nested
from dwindle.models.spec import TaskSpec
from dwindle.task import Split

Inputs = tuple[Tensor, ...]
BATCH, RATE, WARMUP = 32, 1e-3, 0.1
"""The samples of a step, Adam's peak rate, and the share of the steps over which the rate climbs there."""


class Distillation(Fitting):
    """A `dwindle.task.Task` without labels, whose `fit` teaches a network what another one answers.

    Scores by class are compared by their Kullback-Leibler divergence, other outputs by their squared error as a share
    of the teacher's energy, and several outputs by the sum. The network stays in eval mode: batch norm keeps its
    statistics, dropout drops nothing.

        >>> task = Distillation(dense, inputs, passes=20)
        >>> task.fit(pruned, start=0.0, on_step=lambda loss: None)

    teacher: the network that is asked; it is moved to the device that trains. inputs: samples, (N, …) for each argument
    of the networks. keywords: the names of the arguments; None where they are given one by one. passes: how often each
    sample is shown.
    """

    training = False

    def __init__(
        self, teacher: nn.Module, inputs: Inputs, *, passes: int, keywords: tuple[str, ...] | None = None
    ) -> None:
        self._teacher = nested(teacher).eval()
        self._inputs, self._keywords = inputs, keywords
        # cuDNN gives recurrent layers gradients in training mode alone.
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in teacher.modules())
        self.samples = len(inputs[0])
        self.spec = TaskSpec(
            "samples",
            epochs=passes,
            batch_size=min(BATCH, self.samples),
            optimizer="adamw",
            lr=RATE,
            weight_decay=0.0,
            schedule="cosine",
            warmup=WARMUP,
        )

    def batches(self, fit: int, steps: range) -> Iterator[tuple[int, tuple[Inputs, list[Tensor]]]]:
        """Yields each of `steps` with its inputs and the teacher's answers to them, on the device that trains."""
        device = training_device()
        self._teacher.to(device)
        keys = keys_of(self.samples, self.spec.batch_size, self.spec.seed, fit, steps)
        for step, chosen in zip(steps, keys, strict=True):
            places = torch.tensor([index for index, _ in chosen])
            inputs = tuple(tensor[places.to(tensor.device)].to(device) for tensor in self._inputs)
            with torch.no_grad():
                answers = answers_of(self._teacher, inputs, self._keywords)
            yield step, (inputs, answers)

    def loss(self, forward: Callable[..., Any], inputs: Inputs, targets: list[Tensor], device: torch.device) -> Tensor:
        """How far the network's answers to a batch are from the teacher's."""
        with torch.backends.cudnn.flags(enabled=False) if self._recurrent else nullcontext():
            found = answers_of(forward, inputs, self._keywords)
        if are_scores(targets):
            own, wanted = (functional.log_softmax(scores.float(), 1) for scores in (found[0], targets[0]))
            return functional.kl_div(own, wanted, log_target=True, reduction="batchmean")
        pairs = [pair for pair in zip(found, targets, strict=True) if pair[1].is_floating_point()]
        apart = [_share(own.float(), wanted.float()) for own, wanted in pairs]
        return torch.stack(apart).sum()

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """How like the teacher's the answers to all samples are (`dwindle.models.likeness`)."""
        likeness = Likeness(lambda: self._teacher, tuple(tensor[:1] for tensor in self._inputs), self._keywords)
        return likeness.of(model, self._inputs)

    def example_inputs(self) -> Any:
        """The first sample, as a batch of one."""
        return self._named(tuple(tensor[:1] for tensor in self._inputs))

    def inputs(self, split: Split) -> Any:
        """All samples, whatever the split."""
        return self._named(self._inputs)

    def _named(self, inputs: Inputs) -> Any:
        return inputs if self._keywords is None else dict(zip(self._keywords, inputs, strict=True))


def _share(found: Tensor, wanted: Tensor) -> Tensor:
    """The squared error as a share of the energy."""
    return (found - wanted).square().sum() / wanted.square().sum().clamp(min=torch.finfo(wanted.dtype).tiny)
