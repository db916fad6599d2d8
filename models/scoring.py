"""Losses and metrics of classes, by the counts of what was answered for what: they add up over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dwindle.metrics import ACCURACY
from dwindle.registry import unknown_name

CLASS_METRICS = (ACCURACY, "balanced-accuracy", "f1", "mean-iou")
"""The metrics of samples, or pixels, that have one class each."""
LABEL_METRICS = ("mean-average-precision", "f1")
"""The metrics of samples that have any number of labels."""
IGNORED = 255
"""The class of pixels that are neither trained nor judged on, as in Pascal VOC and Cityscapes."""


def chosen(name: str | None, default: str, known: Sequence[str]) -> str:
    """The name of the metric that a task judges by; raises UsageError for one that it doesn't have."""
    if name is not None and name not in known:
        raise unknown_name("metric of this task", name, list(known), option="metric")
    return name or default


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How often each class was answered for each: (label, answer), int64. Both arguments are of one shape, int64.

    Labels of IGNORED are left out.
    """
    answers, labels = answers.cpu().flatten(), labels.cpu().flatten()
    judged = labels != IGNORED if classes <= IGNORED else torch.ones_like(labels, dtype=torch.bool)
    pairs = labels[judged] * classes + answers[judged]
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def class_metric(name: str, counts: Tensor) -> float:
    """A metric of CLASS_METRICS, in points, of what `confusion` counted. Classes that there are none of are left out.

    >>> class_metric("balanced-accuracy", torch.tensor([[9, 1], [0, 10]]))
    95.0
    """
    right, labelled, answered = counts.diagonal().double(), counts.sum(1).double(), counts.sum(0).double()
    if name == ACCURACY:
        return 100 * int(right.sum()) / max(1, int(counts.sum()))
    of_each = {
        "balanced-accuracy": right / labelled,
        "f1": 2 * right / (labelled + answered),
        "mean-iou": right / (labelled + answered - right),
    }[name]
    there = labelled > 0 if name == "balanced-accuracy" else labelled + answered > 0
    return 100 * float(of_each[there].mean())


def label_metric(name: str, scores: Tensor, labels: Tensor) -> float:
    """A metric of LABEL_METRICS, in points, the mean over the labels: both (N, labels). A score above 0 is a yes.

    Labels that no sample has are left out.
    """
    wanted = labels > 0.5
    there = wanted.any(0)
    if name == "f1":
        answered = (scores > 0)[:, there]
        both, either = (answered & wanted[:, there]).sum(0), answered.sum(0) + wanted[:, there].sum(0)
        return 100 * float((2 * both / either).mean())
    from sklearn.metrics import average_precision_score

    return 100 * float(average_precision_score(wanted[:, there].numpy(), scores[:, there].numpy(), average="macro"))


def class_loss(
    scores: Tensor,
    labels: Tensor,
    batch: int,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    ignore: int = -100,
) -> Tensor:
    """The part of a mean cross entropy that a shard of a batch of `batch` samples makes.

    scores: (N, classes, …). labels: (N, …) int64, or (N, classes) shares. weights: of each class. ignore: the label of
    what is left out.
    """
    options: dict[str, Any] = {"label_smoothing": smoothing}
    whole = batch
    if not labels.is_floating_point():  # which has no label to leave out
        options["ignore_index"], whole = ignore, batch * labels[0].numel()
    if weights is None:
        return len(scores) / batch * functional.cross_entropy(scores, labels, **options)
    # Not the weighted mean, which would divide by the weights that a shard happens to have.
    return functional.cross_entropy(scores, labels, weights.to(scores.device), reduction="sum", **options) / whole


def balanced(labels: Tensor, classes: int) -> Tensor:
    """The weight of each class by which all count alike: (classes,) float32, 1 on average over the samples."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return len(labels) / (int((counts > 0).sum()) * counts.float())
