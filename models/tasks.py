"""Makes tasks from their options: the built-in one, with defaults for each data set, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.checkpoint import DOCUMENT
from dwindle.documents import parse
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.build import restore_dense
from dwindle.models.checked_task import CheckedTask
from dwindle.models.classify import ImageClassification
from dwindle.models.data import Splits
from dwindle.models.datasets import LOADERS, is_folder, load_any
from dwindle.models.factory import call_factory, load_factory, parameters
from dwindle.models.images import Images
from dwindle.models.kinds.kind import Loaded, kind_of, load_kind
from dwindle.models.listed import splits_of
from dwindle.models.objects import is_object
from dwindle.models.spec import DATA_SET_OPTIONS, TaskSpec
from dwindle.models.supervised import Supervised
from dwindle.models.trust import Trust, require_trust
from dwindle.registry import unknown

if TYPE_CHECKING:
    from dwindle.checkpoint import Checkpoint


def make_task(spec: Mapping[str, Any]) -> CheckedTask:
    """Makes the task that `spec` describes, and checks it.

    `spec` has fields of TaskSpec, `data` at least, for image classification, or `task`, a `package.module:factory`,
    and the keyword arguments of that factory. An option that is None takes its default.

    The task of a folder without class folders has no labels: `dwindle.models.checked_task` says how it judges.
    Raises UsageError for an option that doesn't exist or a factory that doesn't make a `dwindle.Task`.

        >>> make_task({"data": "digits", "epochs": 3}).steps
        48
    """
    options = {key: value for key, value in spec.items() if value is not None}
    if "task" in options:
        return _users_own(options.pop("task"), options)
    known = [field.name for field in fields(TaskSpec)]
    for key in options:
        if key not in known:
            raise UsageError(unknown("task option", key, known), code="unknown-name", option=key)
    if "data" not in options:
        raise UsageError(
            "there is no data to train on: give `data` a data set, a folder or package.module:factory",
            code="missing-option",
            option="data",
        )
    task_spec = TaskSpec(**{**DATA_SET_OPTIONS.get(options["data"], {}), **options})
    how = task_spec.preprocessing
    found = load_kind(task_spec.data, task_spec) if kind_of(task_spec.data) else None
    if isinstance(found, Loaded):
        rest = {**options, "preprocessing": found.preprocessing, **found.exact}
        name = rest.pop("data")
        return CheckedTask(Supervised(found.splits, classes=found.classes, recorded_as=name, **rest))
    if found is not None:
        splits: Any = splits_of(found, task_spec.image_size, how, skip_broken=task_spec.skip_broken)
        splits = splits.in_colours(how.colours) if how else splits
        task_spec = replace(task_spec, data=found.data or task_spec.data, tokenizer=None)
    else:
        splits = load_any(
            task_spec.data,
            root=task_spec.data_root,
            image_size=task_spec.image_size,
            how=how,
            skip_broken=task_spec.skip_broken,
        )
    if not isinstance(splits, Splits):  # data sets of torch, which a factory made
        rest = {name: value for name, value in options.items() if name not in ("data", "preprocessing")}
        return CheckedTask(Supervised(splits, recorded_as=options["data"], **rest))
    return CheckedTask(ImageClassification(task_spec, splits) if splits.classes else Images(task_spec, splits))


def restore_task(checkpoint: Checkpoint, trust: Trust = False, data: str | None = None) -> CheckedTask:
    """Makes the task that a checkpoint was trained by, which compares with its dense network where it has no labels.

    Data sets and folders of images need no trust; a factory does, see `dwindle.models.trust.require_trust`. data: where
    the same data lies now, if not where it was; a factory that is named here needs no trust.
    Raises UsageError for code that isn't trusted and where its data is gone or has changed since, CheckpointError where
    the checkpoint names no task, or options that a task doesn't have.
    """
    task = _restored(checkpoint, trust, data)
    if not task.labelled:
        task.compare_with(partial(restore_dense, checkpoint, trust))
    return task


def _restored(checkpoint: Checkpoint, trust: Trust, data: str | None) -> CheckedTask:
    spec, file = checkpoint.origin.get("task"), checkpoint.path / DOCUMENT
    if checkpoint.task is not None:
        if data is not None:
            raise UsageError("`data` is where a task finds it that was given as an object: leave it out", option="data")
        return CheckedTask(checkpoint.task)
    if not isinstance(spec, Mapping) or not {"data", "task"} & spec.keys():
        raise CheckpointError(
            f"{checkpoint.path} doesn't say how to make its task: give a factory as package.module:factory",
            code="field",
            path=file,
            name="origin.task",
        )
    options = {key: value for key, value in spec.items() if value is not None}
    if "task" in options and data is not None:
        raise UsageError(
            f"{checkpoint.path} has a task of its own, {options['task']}, which finds its data: leave out `data`",
            code="conflict",
            option="data",
        )
    if "task" in options:
        own = parse(str, options["task"], file, within="origin.task.task")
        if is_object(own):
            raise UsageError(
                f"{checkpoint.path} was made by a task that no name leads to, {own}: open it from Python with "
                "Checkpoint.load(path, task=…), a task of the same class",
                code="object-needed",
                option="task",
                path=checkpoint.path,
                name=own,
            )
        require_trust(own, "task", trust, checkpoint.path)
        return make_task(options)
    options["preprocessing"] = parse(TaskSpec, options, file, within="origin.task").preprocessing
    options["data"] = data or _where(checkpoint, options["data"])
    if data is None and ":" in options["data"] and not (is_folder(options["data"]) or kind_of(options["data"])):
        require_trust(options["data"], "data", trust, checkpoint.path)
    if "data_root" in options and not Path(options["data_root"]).is_dir():
        del options["data_root"]  # of the machine that it was trained on; the fingerprint tells other data
    return make_task(options)


def _where(checkpoint: Checkpoint, data: str) -> str:
    """Where the data of a checkpoint lies: an absolute path as it was given, others as seen from the checkpoint.

    Raises UsageError for a folder that is in neither place.
    """
    if kind := kind_of(data):
        return f"{kind[0]}:{_where(checkpoint, kind[1])}" if checkpoint.data_folder else data
    if Path(data).is_absolute() and Path(data).exists():
        return data
    beside = checkpoint.path.resolve() / (checkpoint.data_folder or "")
    if checkpoint.data_folder and beside.exists():
        return str(beside)
    if Path(data).exists() or data in LOADERS or ":" in data:
        return data
    raise UsageError(
        f"{checkpoint.path} was trained on {data}, which is not here"
        f"{f' nor at {beside}' if checkpoint.data_folder else ''}: give `data` the folder where it is now, or compress "
        "with `keep_samples`, and exporting needs no data",
        code="data-missing",
        option="data",
        path=data,
    )


def _users_own(spec: str, options: dict[str, Any]) -> CheckedTask:
    taken = parameters(load_factory(spec, "task"))
    # A seed is offered to everyone; any other option must not be ignored in silence.
    if ignored := sorted(options.keys() - taken - {"seed"}):
        raise UsageError(
            f"the task {spec!r} has no parameter {', '.join(ignored)}: leave that out, or add it to the factory",
            code="unknown-name",
            option=ignored[0],
        )
    return CheckedTask(call_factory(spec, "task", **options))
