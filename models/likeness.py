"""How like the dense network another one answers: what is judged where there are no labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.metrics import AGREEMENT, SQNR, decibels
from dwindle.models.modes import in_mode, on_device
from dwindle.models.numerics import training_device
from dwindle.models.signature import call, leaves_of, nested

if TYPE_CHECKING:
    from torch import nn

BATCH = 64


class Likeness:
    """Compares networks with a dense one, which is built when it is first needed."""

    def __init__(
        self, build: Callable[[], nn.Module], example: tuple[Tensor, ...], keywords: Sequence[str] | None = None
    ) -> None:
        """build: makes the dense network. example: an input of it, a batch of one. keywords: as in `signature_of`."""
        self._build, self._example, self._keywords = build, example, keywords

    @cached_property
    def _dense(self) -> nn.Module:
        return nested(self._build()).cpu().eval()

    @cached_property
    def metric(self) -> str:
        """AGREEMENT where the dense network gives one tensor of scores, (N, 2 or more), for its classes; else SQNR."""
        with torch.no_grad():
            given = answers_of(self._dense, self._example, self._keywords)
        return AGREEMENT if are_scores(given) else SQNR

    @torch.no_grad()
    def of(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
        """The metric of a network, or of anything that answers as it does, on a batch of inputs of any size.

        Raises UsageError where the dense network's own outputs aren't finite.
        """
        model = nested(model)
        device, metric, same = training_device(), self.metric, 0
        energies: list[tuple[float, float]] = []  # of each output: the dense network's, and the differences'
        with in_mode(model, training=False), on_device(device, model), on_device(device, self._dense):
            for batch in zip(*(tensor.split(BATCH) for tensor in inputs), strict=True):
                given = tuple(part.to(device) for part in batch)
                pairs = _comparable(*(answers_of(each, given, self._keywords) for each in (self._dense, model)))
                energies = energies or [(0.0, 0.0)] * len(pairs)
                for place, (wanted, found) in enumerate(pairs):
                    if not wanted.isfinite().all():
                        raise UsageError(
                            "the dense network answers with NaN or infinity to the samples that it is compared on: "
                            "correct its weights, or the inputs",
                            code="not-finite",
                            option="weights",
                        )
                    if metric == AGREEMENT:
                        same += int((wanted.argmax(1) == found.argmax(1)).sum())
                    signal, noise = energies[place]
                    noise += float((wanted - found).square().sum())
                    energies[place] = signal + float(wanted.square().sum()), noise
        return 100 * same / len(inputs[0]) if metric == AGREEMENT else min(decibels(*each) for each in energies)


def answers_of(model: Any, inputs: tuple[Tensor, ...], keywords: Sequence[str] | None) -> list[Tensor]:
    """All tensors in what a network, or anything called as one, answers to a batch."""
    return [tensor for _, tensor in leaves_of(call(model, inputs, keywords))]


def are_scores(answers: Sequence[Tensor]) -> bool:
    """Whether the answers are one tensor of scores, (N, 2 or more), of classes."""
    return len(answers) == 1 and answers[0].dim() == 2 and answers[0].shape[1] > 1 and answers[0].is_floating_point()


def _comparable(wanted: list[Tensor], found: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The outputs of two networks in pairs, in float64; without whole numbers, such as chosen classes, where there are
    others."""
    pairs = list(zip(wanted, found, strict=True))
    pairs = [pair for pair in pairs if pair[0].is_floating_point()] or pairs
    return [(one.double().cpu(), other.double().cpu()) for one, other in pairs]
