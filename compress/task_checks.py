"""What a request asks of a task, refused before anything is trained where the task hasn't got it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dwindle.compress.recalibrate import can_recalibrate
from dwindle.errors import UsageError
from dwindle.export.quantize import MIXED
from dwindle.models import ranks

if TYPE_CHECKING:
    from dwindle.compress.resolve import Resolved
    from dwindle.models.checked_task import CheckedTask
    from dwindle.models.sources.source import Found


def check_task(task: CheckedTask, resolved: Resolved) -> None:
    """Raises UsageError for a method or an option that this task can't serve: training, where there are no labels."""
    request = resolved.request
    _check_labels(task, resolved)
    if task.steps is None and resolved.pace.qat:
        raise UsageError(
            "`qat` rounds weights over the last share of the schedule's steps, and the task has no `steps`: add that, "
            "or leave out `qat`",
            code="missing-member",
            option="qat",
            name="steps",
        )
    if task.steps is None and resolved.pace.gradual:
        raise UsageError(
            "`gradual` prunes over a share of the schedule's steps, and the task has no `steps`: add that, or "
            "leave out `gradual`",
            code="missing-member",
            option="gradual",
            name="steps",
        )
    if resolved.method.last_lr and not task.takes_last_lr:
        raise UsageError(
            f"the `method` {request.method} holds the schedule's last learning rate, and the task's `fit` has no "
            "keyword `last_lr`: add it, or use another `method`",
            code="missing-member",
            option="method",
            name="last_lr",
        )
    if request.update and not can_recalibrate(task):
        raise UsageError(
            "`update` solves survivors on real inputs, and the task has no `inputs`: add them, or leave it out",
            code="missing-member",
            option="update",
            name="inputs",
        )
    if request.precision == MIXED and not can_recalibrate(task):
        raise UsageError(
            "`precision` mixed measures what layers lose on real inputs, and the task has no `inputs`: add them, or "
            "give another `precision`",
            code="missing-member",
            option="precision",
            name="inputs",
        )
    if request.calib_samples and not can_recalibrate(task):
        raise UsageError(
            f"`method` {request.method} solves weights on real inputs, and the task has no `inputs`: add them",
            code="missing-member",
            option="method",
            name="inputs",
        )
    if request.calib_samples and ranks.world() > 1:
        raise UsageError(
            f"`method` {request.method} works in one process: run it without torchrun", code="conflict", option="method"
        )


def check_order(found: Found, task: CheckedTask) -> None:
    """Raises UsageError where trained weights that keep their head know the data's classes in another order."""
    theirs, ours = found.preprocessing and found.preprocessing.classes, task.class_names
    if theirs and ours and theirs != ours and set(theirs) == set(ours):
        place = next(index for index, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
        raise UsageError(
            f"the pretrained weights have the classes in another order ({theirs[place]!r} is class {place} there "
            f"and {ours[place]!r} in the data): name the folders so that they sort as there",
            code="classes-differ",
            option="pretrained",
            name=theirs[place],
        )


def _check_labels(task: CheckedTask, resolved: Resolved) -> None:
    """Raises UsageError for what can only be had with labels where there are none, and the other way round."""
    request = resolved.request
    if task.labelled:
        if request.max_change is not None:
            raise UsageError(
                "`max_change` is for data without labels, and this has some: give `max_drop`, the points of "
                f"{task.metric} that may be lost",
                code="conflict",
                option="max_change",
            )
        if resolved.method.retrains and not task.trains:
            raise UsageError(
                f"the task has no method `fit`, and `method` {request.method} trains: add it, or take calibrate",
                code="missing-member",
                option="method",
                name="fit",
            )
        return
    data = "the task has neither `fit` nor `evaluate`" if "task" in resolved.task_options else "the data has no labels"
    if resolved.method.retrains:
        raise UsageError(
            f"{data}, and `method` {request.method} trains: give labels (a folder of images for each class), or the "
            "trained network's `weights` and `method` calibrate",
            code="no-labels",
            option="method",
        )
    for option, instead in (("max_drop", "`max_change`, such as 2%"), ("expect_accuracy", "none")):
        if getattr(request, option) is not None:
            raise UsageError(
                f"{data}, so that nothing is known of accuracy: instead of `{option}` give {instead}",
                code="no-labels",
                option=option,
            )
