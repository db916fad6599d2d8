"""`compress`: from a model and a task to a checkpoint that meets its budget."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle import checkpoint as store
from dwindle.checkpoint import Checkpoint
from dwindle.compress.allowance import Change
from dwindle.compress.amc.allocate import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.dense_start import check_weights, judged
from dwindle.compress.masks import masks_of_zeros, unnamed
from dwindle.compress.meter import Meter
from dwindle.compress.network import Network
from dwindle.compress.progress import drawing
from dwindle.compress.recalibrate import can_recalibrate, norms
from dwindle.compress.rehearsal import Rehearsal, rehearse
from dwindle.compress.request import Request, request_for
from dwindle.compress.resolve import Resolved, resolve
from dwindle.compress.rounds import IterativePruning, PruningSettings
from dwindle.compress.size import Sizer
from dwindle.compress.state import capture, cuts_of
from dwindle.compress.surgery.find import find_groups
from dwindle.compress.watcher import Watcher, tracked
from dwindle.errors import UsageError
from dwindle.export import target as targets
from dwindle.export.facts import facts
from dwindle.export.shipping import calibrated, rounded, shipper
from dwindle.foreign import console
from dwindle.lock import locked
from dwindle.models import numerics, ranks
from dwindle.models.build import ModelSpec, build, check_logits, check_rebuilds, loaded, source_of
from dwindle.models.checked_task import CheckedTask
from dwindle.models.copies import copied
from dwindle.models.datasets import folder_from
from dwindle.models.kept import samples_of
from dwindle.models.kinds.kind import kind_of
from dwindle.models.objects import is_object, recorded
from dwindle.models.pretrained import Fit, classes_of, digest, load_pretrained, load_state, read_state
from dwindle.models.provenance import code_state
from dwindle.models.signature import flat
from dwindle.models.sources.source import Found
from dwindle.models.tasks import make_task
from dwindle.models.trust import is_code
from dwindle.price import Price
from dwindle.quantities import format_names
from dwindle.saved_rounds import begun, dense_round
from dwindle.sealed import read_tensors
from dwindle.signature import Signature, varying
from dwindle.tracking import JsonLines, Tracker

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.export.target import Target

Progress = Callable[[str], None]
NOTABLE = 0.05
"""From this share of the parameters on, a note says that they can't be pruned."""
CODES = 0.005
"""The share of a size budget that is kept free for codes that samples choose: they took up to 0.25% more bytes than the
nearest ones, as fewer of them are zero."""


@dataclass(frozen=True)
class Prepared:
    """What a request needs, built or loaded; nothing is trained yet."""

    resolved: Resolved
    task: CheckedTask
    spec: ModelSpec
    signature: Signature
    network: Network
    solvers: tuple[Solver, ...]
    trained: bool
    """Whether the network came trained for the task, so that it is pruned as it is."""
    perhaps_trained: bool = False
    """Whether it may have, which how it scores will tell."""
    notes: tuple[str, ...] = ()
    """What is said of the weights that the network came with."""

    @property
    def origin(self) -> dict[str, Any]:
        """What the checkpoint records of the request, as it will be read back from disk."""
        unset = {name for name in ("config", "revision", "pretrained") if not getattr(self.spec, name)}
        model = {name: value for name, value in asdict(self.spec).items() if name not in unset}
        own = {"model": model, "task": self.task.origin or self.resolved.task_options}
        same: dict[str, Any] = json.loads(json.dumps({**own, **self.resolved.origin}))
        return same

    def build_dense(self) -> nn.Module:
        """Builds the network anew, flat as `network` is."""
        return flat(build(self.spec, self.objects.get("model")), self.signature)

    @property
    def objects(self) -> dict[str, Any]:
        """What the caller gave as objects, by the names of Checkpoint's fields."""
        request = self.resolved.request
        model = {} if isinstance(request.model, str) else {"model": request.model}
        return model if isinstance(request.task, str | Mapping) else {**model, "task": request.task}

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets that the network is meant for, that of the budget first."""
        request = self.resolved.request
        return tuple(dict.fromkeys((request.target, *request.targets)))

    def rehearse(self) -> Rehearsal:
        """Exports the network as it is to all targets, and forgets the files: see `dwindle.compress.rehearsal`."""
        return rehearse(
            self.network,
            [solver.granularity for solver in self.solvers],
            self.task,
            self.build_dense,
            self.origin,
            self.targets,
            trained=self.trained,
            objects=self.objects,
            signature=self.signature,
        )


def prepare(request: Request, progress: Progress = lambda line: None) -> Prepared:
    """Builds task, model and packer, and checks that the budget can be met.

    progress: called with sentences about how far the prices of layers are.

    Raises UsageError for a model, weights or task that cannot be used, BudgetMissed for a budget out of reach.
    """
    resolved = resolve(request)
    request = resolved.request
    if resolved.price:
        resolved.price.require(progress)
    given, called = (
        (None, request.model) if isinstance(request.model, str) else (request.model, recorded(request.model))
    )
    source, name = source_of(request.model)
    found = source.find(name, pretrained=request.pretrained)
    task = (
        make_task(_as_trained(found, resolved))
        if isinstance(request.task, str | Mapping)
        else CheckedTask(request.task)
    )
    _check_labels(task, resolved)
    if task.steps is None and request.qat:
        raise UsageError(
            "`qat` rounds weights over the last share of the schedule's steps, and the task has no `steps`: add that, "
            "or leave out `qat`",
            code="missing-member",
            option="qat",
            name="steps",
        )
    if task.steps is None and request.gradual:
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
    torch.manual_seed(request.seed)
    inputs, classes = task.example_inputs(), task.classes
    if not task.labelled and classes is None and not source.is_code:
        classes = _classes_of_weights(resolved, found, inputs)
    revision = found.revision if request.pretrained else None
    spec = ModelSpec(called, classes, tuple(inputs[0].shape[1:]), dict(found.config), revision)
    model = build(spec, given)
    check_logits(model, inputs, classes, task.keywords)
    if given is None:
        check_rebuilds(spec, model)
    else:  # an unfinished run goes on with the network that it began with, and a finished one is of no other
        tensors = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        spec = replace(spec, pretrained=digest(tensors))
    if request.recalibrate and norms(model) and not can_recalibrate(task):
        raise UsageError(
            "batch norm is recalibrated by real inputs, and the task has no `inputs`: add that, or turn "
            "`recalibrate` off",
            code="missing-member",
            option="recalibrate",
            name="inputs",
        )
    if request.update and not can_recalibrate(task):
        raise UsageError(
            "`update` solves survivors on real inputs, and the task has no `inputs`: add them, or leave it out",
            code="missing-member",
            option="update",
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
    fit: Fit | None = None
    if request.pretrained:
        weights = source.weights(name, found, classes)
        fit = load_state(model, weights, called, option="pretrained", classes=classes, new_head=True)
        spec = replace(spec, pretrained=digest(weights))
    elif request.weights is not None:
        fit = load_pretrained(model, Path(request.weights), classes=classes, new_head=request.new_head)
    if request.pretrained and fit and not fit.fresh:
        _check_order(found, task)
    if fit and fit.fresh and not resolved.method.retrains:
        raise UsageError(
            f"`method` {request.method} trains nothing, and the `pretrained` weights of {called} have their head for "
            f"other classes than the {classes} of the data: give `weights` that were trained on it",
            code="doesnt-fit",
            option="pretrained",
            name=fit.fresh[0],
        )
    if wrong := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise UsageError(
            f"the model {called} is made with values in {wrong[0]} that are not finite: correct its initial weights",
            code="not-finite",
            name=wrong[0],
        )
    if not task.labelled:
        reference = copied(model)
        task.compare_with(lambda: reference)
    signature = varying(task.signature(model), request.dynamic)
    model = flat(model, signature)
    network = Network(model, inputs)
    target = targets.load(request.target, request.precision).described(facts(task.preprocessing))
    targets.require_inputs(target, signature)
    size_of = Sizer(target, inputs)
    size_of(model)  # what the target can't take is known before anything is trained
    solvers = tuple(
        Solver(_for_codes(_by_metric(budget, task), request.rounding), pruning, size_of, request.target)
        for pruning, budget in resolved.phases
    )
    notes = (fit.sentence(request.weights or called),) if fit else ()
    if (price := resolved.price) is not None:
        first, *rest = solvers
        metered, note = ranks.broadcast_from_first(lambda: _metered(first, price, network, target, progress))
        solvers, notes = (metered, *rest), (*notes, note)
    for solver in solvers:
        if resolved.method.keep:
            masks_of_zeros(model)
        else:
            solver.check_feasible(network)
    whole = not request.train_dense and not (fit and fit.fresh)
    trained = whole and (request.weights is not None or not resolved.method.retrains)
    perhaps = whole and not trained and not resolved.method.restore and (source.is_code or request.pretrained)
    return Prepared(resolved, task, spec, signature, network, solvers, trained, perhaps, notes)


def _metered(solver: Solver, price: Price, network: Network, target: Target, progress: Progress) -> tuple[Solver, str]:
    """The solver with what its budget is measured by, and a sentence about that."""
    assert isinstance(solver.granularity, Channels)
    groups = find_groups(network.model, network.inputs, inexact=solver.granularity.inexact)
    meter = Meter(network.model, network.inputs, groups, price, target, progress)
    found = replace(solver, granularity=replace(solver.granularity, meter=meter), meter=meter)
    found.check_feasible(network)
    wrong = meter.correct(found.shrunk(network, found.largest_share(network)).model)
    return found, (
        f"dense, an inference takes {price.words(meter.dense)}; of a network within the budget the table of layers was "
        f"{abs(wrong):.1%} {'over' if wrong > 0 else 'under'} what it takes whole, and was corrected"
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


def _by_metric(budget: Budget, task: CheckedTask) -> Budget:
    """The budget, with an allowance of change that knows what the task compares."""
    if not isinstance(budget.allowance, Change):
        return budget
    return replace(budget, allowance=replace(budget.allowance, metric=task.metric))


def _for_codes(budget: Budget, rounding: str | None) -> Budget:
    """The budget, with room for what codes that samples choose take beyond the nearest ones, which are counted."""
    if budget.size is None or rounding != targets.CALIBRATED:
        return budget
    return replace(budget, size=math.floor(budget.size * (1 - CODES)))


def _classes_of_weights(resolved: Resolved, found: Found, inputs: tuple[Tensor, ...]) -> int | None:
    """The number of classes that the trained weights are for, which data without labels doesn't tell."""
    request, any_number = resolved.request, 10
    if request.weights is None:
        known = found.preprocessing and found.preprocessing.classes
        return len(known) if known else None
    with torch.random.fork_rng(devices=[]):
        tried = build(ModelSpec(str(request.model), any_number, tuple(inputs[0].shape[1:]), dict(found.config)))
    return classes_of(tried, read_state(Path(request.weights))) or any_number


def _check_order(found: Found, task: CheckedTask) -> None:
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


def _as_trained(found: Found, resolved: Resolved) -> dict[str, Any]:
    """The options of the task, with the preprocessing that the trained weights which are begun with want."""
    options, request = dict(resolved.task_options), resolved.request
    named = request.model if isinstance(request.model, str) else ""
    if str(options.get("data")).startswith(("text:", "hf:")) and named.startswith("hf:"):
        options = {"tokenizer": named.removeprefix("hf:"), **options}
    if found.preprocessing and "task" not in options and (request.pretrained or request.weights is not None):
        options["preprocessing"] = replace(found.preprocessing, classes=None)
    return options


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
    if missed := _out_of_reach(network):
        watcher.note(missed)
    settings = PruningSettings(
        resolved.method,
        request.prune_per_round,
        request.rounds,
        bool(request.recalibrate),
        request.gradual,
        request.calib_samples,
        qat=request.qat,
        precision=targets.load(request.target, request.precision).precision,
        update=request.update is not None,
        save_every=60 * request.save_every,
        pretrained=_came_trained(ready, run, watcher),
    )
    if ranks.rank() == 0:
        trackers = [JsonLines(run.path / store.HISTORY), *trackers]
    with tracked(watcher, trackers, run.path.stem, origin) as watching:
        plain, by_samples = targets.load(request.target, request.precision), request.rounding == targets.CALIBRATED
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
    return ranks.broadcast_from_first(lambda: store.finish(done, tensors, cuts.structure))


def _out_of_reach(network: Network) -> str | None:
    """The note that a good part of the network's parameters cannot be pruned; None where it can."""
    left = {name: one for name, one in unnamed(network.model).items() if name not in network.kernels}
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
            task.evaluate(copied(model), "test")
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


def _code(resolved: Resolved) -> dict[str, str]:
    """The version of the user's own code for model, data and task, by what names it."""
    options = resolved.task_options
    named = [str(options.get(key) or "") for key in ("data", "task")]
    if isinstance(resolved.request.model, str):
        named = [resolved.request.model, *named]
    own = [spec for spec in named if is_code(spec) and not (is_object(spec) or kind_of(spec))]
    return {f"code {spec}": code_state(spec) for spec in own if not Path(spec).exists()}
