"""A task by what it is made of: the built-in one with each data set's defaults, or the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dwindle.checkpoint import DOCUMENT
from dwindle.documents import parse
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.classify import ImageClassification
from dwindle.models.datasets import is_folder, load
from dwindle.models.factory import call_factory, load_factory, parameters
from dwindle.models.spec import DATA_SET_OPTIONS, TaskSpec
from dwindle.models.trust import Trust, require_trust
from dwindle.registry import unknown
from dwindle.task import Task

if TYPE_CHECKING:
    from dwindle.checkpoint import Checkpoint


def make_task(spec: Mapping[str, Any]) -> Task:
    """The task that `spec` describes.

    Either fields of TaskSpec, of which `data` alone must be there, for image classification; or `task`, a
    `package.module:factory`, with what the factory is to be called with. Options given as None are left to
    the defaults.
    Raises UsageError for an option that doesn't exist or a factory that doesn't make a Task.
    """
    options = {key: value for key, value in spec.items() if value is not None}
    if "task" in options:
        return _users_own(options.pop("task"), options)
    known = [field.name for field in fields(TaskSpec)]
    for key in options:
        if key not in known:
            raise UsageError(unknown("task option", key, known))
    if "data" not in options:
        raise UsageError("a task needs data: name a data set, a folder or package.module:factory")
    task_spec = TaskSpec(**{**DATA_SET_OPTIONS.get(options["data"], {}), **options})
    splits = load(task_spec.data, root=task_spec.data_root, image_size=task_spec.image_size)
    return ImageClassification(task_spec, splits)


def restore_task(checkpoint: Checkpoint, trust: Trust = False) -> Task:
    """The task that a checkpoint was trained by.

    Data sets and folders of images need no trust; a factory does, see `dwindle.models.trust.require_trust`.
    Raises UsageError for code that isn't trusted and where its data is gone or has changed since, CheckpointError where
    the checkpoint names no task, or options that a task doesn't have.
    """
    spec, file = checkpoint.origin.get("task"), checkpoint.path / DOCUMENT
    if not isinstance(spec, Mapping) or not {"data", "task"} & spec.keys():
        raise CheckpointError(
            f"{checkpoint.path} doesn't say how to make its task: give a factory as package.module:factory",
            code="field",
            path=file,
            name="origin.task",
        )
    options = {key: value for key, value in spec.items() if value is not None}
    if "task" in options:
        require_trust(parse(str, options["task"], file, within="origin.task.task"), "task", trust, checkpoint.path)
        return make_task(options)
    parse(TaskSpec, options, file, within="origin.task")
    if ":" in options["data"] and not is_folder(options["data"]):
        require_trust(options["data"], "data", trust, checkpoint.path)
    return make_task(options)


def _users_own(spec: str, options: dict[str, Any]) -> Task:
    taken = parameters(load_factory(spec, "task"))
    # A seed is offered to everyone; whatever else was asked for must not be dropped in silence.
    if ignored := sorted(options.keys() - taken - {"seed"}):
        raise UsageError(f"task {spec!r} takes no {', '.join(ignored)}: leave that out, or let its factory take it")
    task = call_factory(spec, "task", **options)
    if not isinstance(task, Task):
        missing = [name for name in ("fit", "evaluate", "example_inputs") if not hasattr(task, name)]
        raise UsageError(f"task {spec!r} made a {type(task).__name__} without {', '.join(missing)}")
    return task
