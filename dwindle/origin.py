"""From the options that a checkpoint records back to the request, and the command line, that make it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from dwindle.bench.views.summary import Goal
from dwindle.compress.methods import METHODS
from dwindle.compress.recipes import PLAIN, RECIPES, Pace, default_score, preset_options
from dwindle.compress.request import Request, request_words
from dwindle.errors import CheckpointError
from dwindle.models.objects import is_object
from dwindle.models.spec import DATA_SET_OPTIONS, TaskSpec
from dwindle.options import NAMES, PATTERNS, options

WEIGHTS = "FILE"
"""Stands for the path of a file of weights, since a checkpoint records only the hash of its content."""


def goal(origin: Mapping[str, Any]) -> Goal:
    """What a checkpoint of this origin was made for: its target and budget, against which bench's figures are read.

    Raises CheckpointError for a value that its option can't have.
    """
    asked = requested(origin)
    size = asked.size if isinstance(asked.size, int) else None
    return Goal(asked.target, size, asked.max_drop)


def requested(origin: Mapping[str, Any]) -> Request:
    """The request that makes a checkpoint of this origin: `resolve(requested(origin)).origin == origin`.

    Options that the recipe, the method or the data set would set to the same value are left unset. The path of
    weights isn't recorded: WEIGHTS stands for it. Raises CheckpointError for a value that its option can't have.
    """
    values = _values(origin, Request)
    recipe = RECIPES.get(str(values.get("recipe")), PLAIN)
    method = METHODS.get(str(values.get("method")), METHODS["lr-rewind"])
    values["recalibrate"] = bool(origin.get("recalibrate"))
    came = {name: bool(values.get(name)) for name in ("pretrained", "new_head")}
    implied = {
        "score": default_score(recipe, method, **came),
        "recalibrate": recipe.recalibrate,
        "rewind_to": method.start,
        "calib_samples": method.samples,
    }
    recorded = origin.get("task")
    if not (isinstance(recorded, Mapping) and recorded.get("photographs")):
        implied |= asdict(Pace())  # of photographs, what a run does follows from more than is recorded: all is said
    elif method.retrains:
        values = {**asdict(Pace()), **values}
    values = {name: value for name, value in values.items() if name not in implied or value != implied[name]}
    if "weights" in values:
        values["weights"] = WEIGHTS
    task = _values(recorded, TaskSpec) if isinstance(recorded, Mapping) else {}
    if isinstance(recorded, Mapping) and "task" in recorded:
        task = {"task": recorded["task"], **task}
    else:
        defaults = {each.name: each.default for each in options(TaskSpec)}
        preset = {**defaults, **DATA_SET_OPTIONS.get(str(task.get("data")), {}), **preset_options(recipe, method)}
        # What was recorded before there was an option, or isn't recorded at its default, was at its default.
        task = {name: value for name, value in {**defaults, **task}.items() if value != preset[name]}
    model = origin.get("model")
    spec = model.get("spec") if isinstance(model, Mapping) else model
    return Request(model=str(spec or "MODEL"), task=task, **values)


def command_line(origin: Mapping[str, Any], out: Path | str) -> list[str]:
    """The command that makes a checkpoint of this origin in `out`, quoted for a shell, an option per entry.

    Raises CheckpointError for a value that its option can't have.
    """
    request = requested(origin)
    try:
        (model, *rest) = request_words(request)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint records a value that no option can have: {error}") from error
    pieces = [["dwindle", "compress", *model], *rest, ["-o", str(out)]]
    task = origin.get("task")
    named = (request.model, task.get("task") if isinstance(task, Mapping) else None)
    objects = [str(spec) for spec in named if is_object(str(spec))]
    comments = [f"{', '.join(objects)}: given from Python, and known by no name"] if objects else []
    comments += [f"{WEIGHTS}: the weights with SHA-256 {origin['weights']}"] if request.weights else []
    if without := _without_flag(origin):
        comments.append(f"and from Python, the task's own options: {', '.join(without)}")
    # A comment ends with its line, and what follows in a name from a file would be a command.
    return [*map(shlex.join, pieces), *(f"# {' '.join(comment.split())}" for comment in comments)]


def _values(recorded: Mapping[str, Any], declared: type) -> dict[str, Any]:
    """The options of a dataclass that were recorded; raises CheckpointError for a value of another type."""
    values: dict[str, Any] = {}
    for each in options(declared):
        value = recorded.get(each.name)
        if value is None or not each.recorded:
            continue  # None stands for an option that was left to its default
        several = each.kind in (PATTERNS, NAMES)
        items = value if several and isinstance(value, list) else [value]
        if not all(isinstance(item, str if several else each.kind.holds) for item in items):
            raise CheckpointError(
                f"the checkpoint records {each.name} as {value!r:.40}: no option can have that", option=each.name
            )
        values[each.name] = tuple(map(str, items)) if several else value
    return values


def _without_flag(origin: Mapping[str, Any]) -> list[str]:
    """Options of the user's own task that the command line has no flag for."""
    task = origin.get("task")
    if not isinstance(task, Mapping) or "task" not in task:
        return []
    known = {each.name for each in chain(options(TaskSpec), options(Request))}
    return [f"{name}={value!r}" for name, value in task.items() if name not in known and value is not None]
