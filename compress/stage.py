"""The verb: from a model and a task to a checkpoint that meets its budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwindle import checkpoint as store
from dwindle.checkpoint import Checkpoint
from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.methods import method as method_named
from dwindle.compress.network import Network
from dwindle.compress.rounds import Loop, Plan
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import target as targets
from dwindle.models.build import ModelSpec, build, check_logits
from dwindle.models.tasks import make_task
from dwindle.quantities import parse_bytes
from dwindle.sealed import read_tensors
from dwindle.task import Task


def compress(
    model: str,
    *,
    task: Mapping[str, Any] | str,
    out: Path | str,
    size: int | str | None = None,
    density: float | None = None,
    target: str = "onnx",
    method: str = "lr-rewind",
    rewind_to: float | None = None,
    prune_per_round: float = 0.2,
    rounds: int | None = None,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Checkpoint:
    """Trains `model`, then prunes and retrains it until the budget holds.

    Args:
        model: `zoo:NAME`, `torchvision:NAME` or `package.module:factory`.
        task: a data set for the built-in image classification, or options for `dwindle.models.tasks`
            (`{"data": "digits", "epochs": 20}`, `{"task": "package.module:factory"}`).
        out: where the checkpoint goes. If an unfinished one made with the same options is there, it is
            resumed; a finished one is returned as it is.
        size: bytes (or `"500KB"`) of the file that `target` will ship, counted by its own packer.
        density: surviving share of the prunable weights.
        method: `lr-rewind`, `weight-rewind`, `lottery-ticket` or `finetune`; see `dwindle.compress.methods`.
        rewind_to: where retraining restarts, as a fraction of the schedule; None is the method's own.
        prune_per_round: share of the surviving weights that a round removes (the paper's 20%).
        rounds: instead, a fixed number of rounds; 1 is one-shot.

    Raises UsageError for a request that makes no sense, BudgetMissed if the budget cannot be reached, and
    DwindleError if training diverges or `out` cannot be written.
    """
    budget = Budget(parse_bytes(size) if isinstance(size, str) else size, density)
    if rounds is not None and rounds < 1:
        raise UsageError(f"--rounds {rounds} prunes nothing: give 1 (one-shot) or more")
    retraining, packer = method_named(method, rewind_to), targets.load(target)
    options = {"data": task} if isinstance(task, str) else dict(task)
    work = make_task({**options, "seed": seed})
    torch.manual_seed(seed)
    spec, network = _build(model, work)
    solver = Solver(budget, Blocks(), packer.packer(network.model, work.example_inputs()), target)
    solver.check_feasible(network)

    origin = {
        "model": asdict(spec),
        "task": getattr(work, "origin", {**options, "seed": seed}),
        "target": target,
        "size": budget.size,
        "density": budget.density,
        "method": method,
        "rewind_to": retraining.start,
        "prune_per_round": prune_per_round if rounds is None else None,
        "rounds": rounds,
        "seed": seed,
    }
    run = store.start(Path(out), _as_json(origin))
    if run.done:
        return run
    plan = Plan(retraining, prune_per_round, rounds)
    history = Loop(run.path, network, work, solver.granularity, solver, plan, watcher or Watcher()).run()

    dense = read_tensors(store.dense_round(run.path), "weights")
    metrics = {"test": work.evaluate(network.model, "test"), "dense_test": _test_of(spec, dense, work)}
    tensors = {
        "weights": network.model.state_dict(),
        "dense": dense,
        "masks": store.pack_masks(network.masks),
    }
    return store.finish(replace(run, done=True, history=history, metrics=metrics), tensors)


def _build(model: str, task: Task) -> tuple[ModelSpec, Network]:
    inputs, classes = task.example_inputs(), getattr(task, "classes", None)
    spec = ModelSpec(model, classes, tuple(inputs[0].shape[1:]))
    network = build(spec)
    check_logits(network, inputs, classes)
    return spec, Network(network)


def _test_of(spec: ModelSpec, weights: Mapping[str, Any], task: Task) -> float:
    dense: nn.Module = build(spec)
    dense.load_state_dict(dict(weights))
    return task.evaluate(dense, "test")


def _as_json(origin: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from disk: a resumed run compares what it was made with."""
    same: dict[str, Any] = json.loads(json.dumps(origin))
    return same
