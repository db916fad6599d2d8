"""`compress`: from a model and a task to a checkpoint that meets its budget."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle import checkpoint as store
from dwindle.checkpoint import Checkpoint
from dwindle.compress import mixed
from dwindle.compress.amc.allocate import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.budget import Solver
from dwindle.compress.dense_start import check_weights, judged
from dwindle.compress.masks import unnamed
from dwindle.compress.network import Network
from dwindle.compress.prepared import Prepared, prepare
from dwindle.compress.progress import drawing
from dwindle.compress.pruning_settings import PruningSettings
from dwindle.compress.request import Request, request_for
from dwindle.compress.resolve import Resolved
from dwindle.compress.rounds import IterativePruning
from dwindle.compress.state import capture, cuts_of
from dwindle.compress.watcher import Watcher, tracked
from dwindle.export import targets
from dwindle.export.quantize import MIXED
from dwindle.export.shipping import calibrated, rounded, shipper
from dwindle.export.target import CALIBRATED
from dwindle.foreign import console
from dwindle.lock import locked
from dwindle.models import numerics, ranks
from dwindle.models.build import loaded
from dwindle.models.copies import copied
from dwindle.models.datasets import folder_from
from dwindle.models.kept import samples_of
from dwindle.models.kinds.kind import kind_of
from dwindle.models.objects import is_object
from dwindle.models.provenance import code_state
from dwindle.models.trust import is_code
from dwindle.quantities import format_names
from dwindle.record import Choice
from dwindle.saved_rounds import begun, dense_round
from dwindle.sealed import read_tensors
from dwindle.tracking import JsonLines, Tracker

if TYPE_CHECKING:
    from torch import nn


NOTABLE = 0.05
"""From this share of the parameters on, a note says that they can't be pruned."""


def compress(
    model: nn.Module | Request | str,
    out: Path | str,
    watcher: Watcher | None = None,
    trackers: Sequence[Tracker] = (),
    **options: Any,
) -> Checkpoint:
    """Trains the model, then prunes and retrains it until the budget holds, and returns the checkpoint.

        >>> net = compress(Net(), "net.dwindle", task=Loop(), size="500KB")
        >>> net = compress("zoo:resnet8", "net.dwindle", data="digits", epochs=20, size="25KB")
        >>> net.history[-1].bytes <= 25_000
        True

    Args:
        model: the network, as an object or by its name, such as `timm:mobilenetv3_small_100`; or a Request. An object
            stays as it is. Where it scores well above chance on the task, it is taken as the dense network.
        out: the folder of the checkpoint. An unfinished one that was made with the same options is resumed; a finished
            one is returned as it is. A network that is given as an object must have the same weights again.
        watcher: what the progress is reported to; `Watcher()` logs it through `logging`. By default it is drawn on
            stderr, or in a notebook.
        trackers: what figures are sent to, besides `out`/history.jsonl.
        options: fields of Request, such as `task`, an object that has the methods of `dwindle.Task`, and `size`; and
            of `dwindle.models.TaskSpec`, such as `data` and `epochs`. `dwindle compress --help` describes them.

    Raises UsageError for a request that makes no sense, BudgetMissed if the budget cannot be reached, and
    DwindleError if training diverges or `out` cannot be written; the rounds finished by then stay saved.
    Under torchrun every rank calls this; the first alone reads and writes `out` and tells watcher and trackers.
    """
    request = request_for(model, options)
    with ranks.joined(), ExitStack() as whole_run:
        if ranks.rank() > 0:
            watcher, trackers = Watcher(), ()
        if watcher is None:
            watcher = whole_run.enter_context(drawing(console(), request.target, flags={}))
        ready = prepare(request, watcher.note)
        return replace(_compress(ready, Path(out), watcher, trackers, whole_run), **ready.objects)


def _compress(
    ready: Prepared, out: Path, watcher: Watcher, trackers: Sequence[Tracker], whole_run: ExitStack
) -> Checkpoint:
    resolved, task, network = ready.resolved, ready.task, ready.network
    request = resolved.request
    origin = ready.origin
    ranks.check_same_task(origin["task"])
    code = _code(resolved)
    ranks.broadcast_from_first(lambda: whole_run.enter_context(locked(out)))
    here = numerics.present()
    run = ranks.broadcast_from_first(lambda: store.start(out, origin, code, here))
    if run.done:
        return run
    then = run.numerics or here
    if changed := numerics.differences(then, here, run.versions, store.versions()):
        watcher.note(changed)
    whole_run.enter_context(numerics.continued(then, here))
    for name in [name for name, state in code.items() if run.versions.get(name) != state]:
        watcher.note(f"{name} has changed since this run began: {code[name]}, was {run.versions.get(name)}")
    for note in ready.notes:
        watcher.note(note)
    watcher.note(resolved.choice)
    if missed := _out_of_reach(network, ready.solvers):
        watcher.note(missed)
    plain = targets.load(request.target, request.precision).mixing(network.widths)
    settings = PruningSettings(
        resolved.method,
        resolved.pace.prune_per_round,
        request.rounds,
        bool(request.recalibrate),
        resolved.pace.gradual,
        request.calib_samples,
        distill=request.distill,
        qat=resolved.pace.qat,
        target=plain,
        update=request.update is not None,
        save_every=60 * request.save_every,
        pretrained=_came_trained(ready, run, watcher),
    )
    if ranks.rank() == 0:
        trackers = [JsonLines(run.path / store.HISTORY), *trackers]
    with tracked(watcher, trackers, run.path.stem, origin) as watching:
        by_samples = request.rounding == CALIBRATED
        count = request.calib_samples if by_samples else None
        target = calibrated(plain, task, count, say=watching.note)
        if by_samples:
            target = rounded(target, task, count, say=watching.note)
        as_shipped = shipper(target, task.example_inputs())
        pruning = IterativePruning(
            run.path, network, task, ready.solvers, settings, watching, ready.build_dense, as_shipped
        )
        if request.rehearsal and ranks.broadcast_from_first(lambda: not begun(run.path)):
            _rehearsed(ready, watching)
        if resolved.search:
            pruning = replace(pruning, allocated=partial(_allocated, pruning, resolved.search))
        elif plain.precision == MIXED:
            mixed.apply(network, ranks.broadcast_from_first(lambda: store.saved_choices(run.path)))
            pruning = replace(pruning, allocated=partial(_mixed, pruning))
        history = pruning.run()
        if (meter := ready.solvers[0].meter) is not None:
            whole = ranks.broadcast_from_first(lambda: meter.whole(network.model))
            over = whole / ready.solvers[0].budget.price_of(meter) - 1
            spent = f"{meter.price.words(whole)}, {abs(over):.1%} {'over' if over > 0 else 'under'} the budget"
            watching.note(f"the file as a whole: an inference takes {spent}")
        dense = ranks.broadcast_from_first(lambda: read_tensors(dense_round(run.path), "weights"))
        metrics = {"test": task.evaluate(as_shipped(network.model), "test")}
        metrics["dense_test"] = task.evaluate(loaded(ready.build_dense(), dense, dense_round(run.path)), "test")
        watching.result(metrics)
    state = capture(network, task)
    tensors = {"weights": state["weights"], "dense": dense, "masks": state["masks"]}
    if request.keep_samples:
        tensors["samples"] = samples_of(task, request.keep_samples)
    cuts = cuts_of(network, ready.build_dense)
    done = replace(
        run,
        done=True,
        history=history,
        metrics=metrics,
        metric=task.metric,
        uncut=cuts.uncut,
        signature=ready.signature,
        preprocessing=task.preprocessing,
        data_folder=folder_from(run.path, resolved.task_options.get("data")),
    )
    return ranks.broadcast_from_first(
        lambda: store.finish(done, tensors, cuts.structure, store.saved_choices(run.path))
    )


def _out_of_reach(network: Network, solvers: Sequence[Solver]) -> str | None:
    """The note that a good part of the network's parameters cannot be pruned; None where it can."""
    named = {name for solver in solvers for name in solver.granularity.layers.of(network.model, network.kernels)}
    reached = named.union(network.kernels)
    left = {name: one for name, one in unnamed(network.model).items() if name not in reached}
    whole = sum(parameter.numel() for parameter in network.model.parameters())
    share = sum(parameter.numel() for parameter in left.values()) / whole
    if share < NOTABLE:
        return None
    return f"{share:.0%} of the parameters are no layer's `weight` and are not pruned: {format_names(left, 1)}"


def _came_trained(ready: Prepared, run: Checkpoint, watcher: Watcher) -> bool:
    """Whether the network is the dense one as it came, told by its weights' origin or by how well it scores.

    Judging it before any training also finds a mistake in the `evaluate` of the user's own task. Raises UsageError for
    weights that aren't what they should be.
    """
    request, task, model = ready.resolved.request, ready.task, ready.network.model
    own = "task" in ready.resolved.task_options
    if not (ready.trained or ready.perhaps_trained or own) or ranks.broadcast_from_first(lambda: begun(run.path)):
        return ready.trained
    if not task.labelled:
        watcher.note(f"there are no labels: {task.metric} is judged, on the `inputs` of validation and test")
        return True
    start = judged(task, model)
    if own:
        with torch.random.fork_rng(devices=[]):
            task.tried(copied(model), "test")
    if ready.trained:
        chosen = ready.resolved.task_options.get("normalize") is not None
        watcher.note(check_weights(task, model, start, request.expect_accuracy, chosen))
        return True
    if ready.perhaps_trained and start.is_trained:
        watcher.note(
            f"{ready.spec.spec} came trained: it scores {start.validation:.2f} on validation, and is taken as the "
            "dense network (`train_dense` trains it on)"
        )
        return True
    return False


def _rehearsed(ready: Prepared, watcher: Watcher) -> None:
    """Rehearses the export on the first rank, says what came of it, and raises what a target refuses."""
    rehearsal = ranks.broadcast_from_first(ready.rehearse)
    for target in rehearsal.outcomes:
        watcher.note(f"{target}: {rehearsal.sentence(target)}")
    if refusals := list(filter(None, map(rehearsal.refusal, rehearsal.outcomes))):
        raise refusals[0]


def _allocated(run: IterativePruning, settings: Settings, solver: Solver) -> Solver:
    """Returns the solver that prunes by the shares that AMC finds for the solver's budget."""
    share = solver.largest_share(run.network)
    granularity, result = allocate(
        run.folder, run.network, solver.granularity, run.task, share, settings, run.watcher.search
    )
    run.watcher.allocation(result)
    return replace(solver, granularity=granularity)


def _mixed(run: IterativePruning, solver: Solver) -> Solver:
    """Returns the solver that prunes by the densities which `precision` mixed chooses beside the network's widths."""

    def chosen() -> dict[str, Choice]:
        if there := store.saved_choices(run.folder):
            return there
        with torch.random.fork_rng(devices=[]):
            found = mixed.chosen(run.network, solver, run.task.training_inputs())
        store.save_choices(run.folder, found)
        run.watcher.note(mixed.sentence(found))
        return found

    return mixed.along(solver, run.network, ranks.broadcast_from_first(chosen))


def _code(resolved: Resolved) -> dict[str, str]:
    """The version of the user's own code for model, data and task, by what names it."""
    options = resolved.task_options
    named = [str(options.get(key) or "") for key in ("data", "task")]
    if isinstance(resolved.request.model, str):
        named = [resolved.request.model, *named]
    own = [spec for spec in named if is_code(spec) and not (is_object(spec) or kind_of(spec))]
    return {f"code {spec}": code_state(spec) for spec in own if not Path(spec).exists()}
