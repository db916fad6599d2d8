"""The verb: from a model and a task to a checkpoint that meets its budget."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle import checkpoint as store
from dwindle.checkpoint import Checkpoint
from dwindle.compress.amc.allocate import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.asked import judged, rehearse, sample, steps
from dwindle.compress.budget import Solver
from dwindle.compress.masks import unnamed
from dwindle.compress.network import Network
from dwindle.compress.recalibrate import norms, source
from dwindle.compress.request import Request
from dwindle.compress.resolve import Resolved, resolve
from dwindle.compress.rounds import Loop, Plan
from dwindle.compress.size import Sizer
from dwindle.compress.state import capture, structure_of
from dwindle.compress.watcher import Watcher, tracked
from dwindle.errors import UsageError
from dwindle.export import target as targets
from dwindle.export.shipping import calibrated, shipper
from dwindle.models import ranks
from dwindle.models.build import ModelSpec, build, check_logits, check_rebuilds, loaded
from dwindle.models.pretrained import load_pretrained
from dwindle.models.provenance import code_state
from dwindle.models.tasks import make_task
from dwindle.quantities import format_names
from dwindle.sealed import read_tensors
from dwindle.task import Task
from dwindle.tracking import JsonLines, Tracker

if TYPE_CHECKING:
    from torch import nn

NOTABLE = 0.05
"""The share of the parameters from which on it is said that they can't be pruned."""


@dataclass(frozen=True)
class Prepared:
    """What a request needs, built or loaded; nothing is trained yet."""

    resolved: Resolved
    task: Task
    spec: ModelSpec
    network: Network
    solvers: tuple[Solver, ...]


def prepare(request: Request) -> Prepared:
    """Builds task, model and packer, and checks that the budget can be met.

    Raises UsageError for a model, weights or task that cannot be used, BudgetMissed for a budget out of reach.
    """
    resolved = resolve(request)
    request = resolved.request
    task = make_task(resolved.task_options)
    if steps(task) is None and request.gradual:
        raise UsageError(
            "`gradual` prunes step by step, and the task doesn't say how many it takes: add `steps` to it",
            code="conflict",
            option="gradual",
        )
    if resolved.method.last_lr and not _takes(task.fit, "last_lr"):
        raise UsageError(
            f"`method` {request.method} keeps the last learning rate of the schedule, and the task's fit takes no "
            "`last_lr`: add it, or use another `method`",
            code="conflict",
            option="method",
        )
    torch.manual_seed(request.seed)
    inputs, classes = sample(task), getattr(task, "classes", None)
    spec = ModelSpec(request.model, classes, tuple(inputs[0].shape[1:]))
    model = build(spec)
    check_logits(model, inputs, classes)
    check_rebuilds(spec, model)
    if request.recalibrate and norms(model) and source(task) is None:
        raise UsageError(
            "batch norm is recalibrated by real inputs, and the task has no `inputs`: add them, or turn off "
            "`recalibrate`",
            code="conflict",
            option="recalibrate",
        )
    if request.weights is not None:
        load_pretrained(model, Path(request.weights))
    if wrong := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise UsageError(f"{wrong[0]} of {request.model} is not finite as the model is made: mend its initial weights")
    network = Network(model, inputs)
    size_of = Sizer(targets.load(request.target, request.precision), inputs)
    size_of(model)  # what the target can't take is known before anything is trained
    solvers = tuple(Solver(budget, pruning, size_of, request.target) for pruning, budget in resolved.phases)
    for solver in solvers:
        solver.check_feasible(network)
    return Prepared(resolved, task, spec, network, solvers)


def compress(
    request: Request, out: Path | str, watcher: Watcher | None = None, trackers: Sequence[Tracker] = ()
) -> Checkpoint:
    """Trains the model, then prunes and retrains it until the budget holds, and returns the checkpoint.

    `out` is where it goes. If an unfinished one made with the same options is there, it is resumed; a
    finished one is returned as it is. Its figures go to `out`/history.jsonl and to `trackers`.

    Raises UsageError for a request that makes no sense, BudgetMissed if the budget cannot be reached, and
    DwindleError if training diverges or `out` cannot be written; the rounds finished by then stay saved.
    Under torchrun every rank calls this; the first alone reads and writes `out` and tells watcher and trackers.
    """
    with ranks.joined(), ExitStack() as whole_run:
        if ranks.rank() > 0:
            watcher, trackers = None, ()
        return _compress(request, Path(out), watcher or Watcher(), trackers, whole_run)


def _compress(
    request: Request, out: Path, watcher: Watcher, trackers: Sequence[Tracker], whole_run: ExitStack
) -> Checkpoint:
    ready = prepare(request)
    resolved, spec, task, network = ready.resolved, ready.spec, ready.task, ready.network
    request = resolved.request
    origin = _as_json({**_origin(spec, task, resolved), **resolved.origin})
    code = _code(resolved)
    ranks.broadcast_from_first(lambda: whole_run.enter_context(store.locked(out)))
    run = ranks.broadcast_from_first(lambda: store.start(out, origin, code))
    if run.done:
        return run
    for name in [name for name, state in code.items() if run.versions.get(name) != state]:
        watcher.note(f"{name} has changed since this run began: {code[name]}, was {run.versions.get(name)}")
    watcher.note(resolved.choice)
    if missed := _out_of_reach(network.model):
        watcher.note(missed)
    plan = Plan(
        resolved.method,
        request.prune_per_round,
        request.rounds,
        bool(request.recalibrate),
        request.gradual,
        save_every=60 * request.save_every,
        pretrained=request.weights is not None,
    )
    fresh = partial(build, spec)
    if ranks.rank() == 0:
        trackers = [JsonLines(run.path / store.HISTORY), *trackers]
    with tracked(watcher, trackers, run.path.stem, origin) as watching:
        target = calibrated(targets.load(request.target, request.precision), task, say=watching.note)
        ships = shipper(target, task.example_inputs())
        loop = Loop(run.path, network, task, ready.solvers, plan, watching, fresh, ships)
        if "task" in resolved.task_options and ranks.broadcast_from_first(lambda: not store.begun(run.path)):
            rehearse(task, network.model)
        if resolved.search:
            loop = replace(loop, aim=partial(_searched, loop, resolved.search))
        history = loop.run()
        dense = ranks.broadcast_from_first(lambda: read_tensors(store.dense_round(run.path), "weights"))
        metrics = {"test": judged(task, ships(network.model), "test")}
        metrics["dense_test"] = judged(task, loaded(fresh(), dense, store.dense_round(run.path)), "test")
        watching.result(metrics)
    state = capture(network, task)
    tensors = {"weights": state["weights"], "dense": dense, "masks": state["masks"]}
    pinned = tuple(asdict(whole) for whole in network.whole)
    done = replace(run, done=True, history=history, metrics=metrics, pinned=pinned)
    structure = structure_of(network, fresh)
    return ranks.broadcast_from_first(lambda: store.finish(done, tensors, structure))


def _out_of_reach(model: nn.Module) -> str | None:
    """What is said where a good part of the network isn't pruned, asked for or not."""
    left, whole = unnamed(model), sum(parameter.numel() for parameter in model.parameters())
    share = sum(parameter.numel() for parameter in left.values()) / whole
    if share < NOTABLE:
        return None
    return f"{share:.0%} of the parameters are no layer's `weight` and stay as they are: {format_names(left, 1)}"


def _takes(function: Callable[..., None], keyword: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(one.name == keyword or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def _searched(loop: Loop, settings: Settings, solver: Solver) -> Solver:
    """The solver along the shares that AMC finds for its budget."""
    share = solver.largest_share(loop.network)
    pruning, result = allocate(
        loop.folder, loop.network, solver.granularity, loop.task, share, settings, loop.watcher.search
    )
    loop.watcher.allocation(result)
    return replace(solver, granularity=pruning)


def _code(resolved: Resolved) -> dict[str, str]:
    """The state of the user's own model, data and task."""
    options = resolved.task_options
    specs = [resolved.request.model, *(str(options.get(key) or "") for key in ("data", "task"))]
    own = [spec for spec in specs if ":" in spec and spec.partition(":")[0] not in ("zoo", "torchvision")]
    return {f"code {spec}": code_state(spec) for spec in own if not Path(spec).exists()}


def _origin(spec: ModelSpec, task: Task, resolved: Resolved) -> dict[str, Any]:
    return {"model": asdict(spec), "task": getattr(task, "origin", resolved.task_options)}


def _as_json(origin: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from disk: a resumed run compares what it was made with."""
    same: dict[str, Any] = json.loads(json.dumps(origin))
    return same
