"""From a request to the network, the task and the solvers that it needs, before anything is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle.checkpoint import preprocessing_of
from dwindle.compress.allowance import Change
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.masks import masks_of_zeros
from dwindle.compress.meter import Meter
from dwindle.compress.network import Network
from dwindle.compress.recalibrate import can_recalibrate, norms
from dwindle.compress.rehearsal import Rehearsal, rehearse
from dwindle.compress.request import Request
from dwindle.compress.resolve import Resolved, resolve
from dwindle.compress.size import Sizer
from dwindle.compress.surgery.find import find_groups
from dwindle.compress.task_checks import check_order, check_task
from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.facts import facts
from dwindle.export.quantize import MIXED, PALETTES
from dwindle.export.target import CALIBRATED
from dwindle.models import ranks
from dwindle.models.build import ModelSpec, build, check_logits, check_rebuilds, source_of
from dwindle.models.checked_task import CheckedTask
from dwindle.models.copies import copied
from dwindle.models.objects import recorded
from dwindle.models.pretrained import Fit, classes_of, digest, load_pretrained, load_state, read_state
from dwindle.models.signature import flat
from dwindle.models.sources.source import Found
from dwindle.models.tasks import make_task
from dwindle.price import Price
from dwindle.signature import Signature, varying

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.export.target import Target

Progress = Callable[[str], None]
CODES = 0.005
"""The share of a size budget that is kept free for codes that samples choose: they took up to 0.25% more bytes than the
nearest ones, as fewer of them are zero."""
MOVING = 0.0025
"""The share of a size budget that each pruning keeps free for palettes: retraining MobileNetV3-small at four bits moved
the bytes of its file by up to 0.1%."""

_DENSE = (
    "the weights hold no zeros: the network is exported as it is, dense; had it been pruned, give its weights after "
    "its masks were applied for good"
)


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
            mixed=self.resolved.request.precision == MIXED,
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
    check_task(task, resolved)
    torch.manual_seed(request.seed)
    inputs, classes = task.example_inputs(), task.classes
    if not task.labelled and classes is None and not source.is_code:
        classes = _classes_of_weights(resolved, found, inputs)
    revision = found.revision if request.pretrained else None
    head = task.pixel_classes if classes is None and not source.is_code else classes
    spec = ModelSpec(called, head, tuple(inputs[0].shape[1:]), dict(found.config), revision)
    model = build(spec, given)
    check_logits(model, inputs, classes, task.keywords, task.pixel_classes)
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
    fit: Fit | None = None
    if request.pretrained:
        weights = source.weights(name, found, head)
        fit = load_state(model, weights, called, option="pretrained", classes=head, new_head=True)
        spec = replace(spec, pretrained=digest(weights))
    elif request.weights is not None:
        fit = load_pretrained(model, Path(request.weights), classes=head, new_head=request.new_head)
    if request.pretrained and fit and not fit.fresh:
        check_order(found, task)
    if fit and fit.fresh and not resolved.method.retrains:
        raise UsageError(
            f"`method` {request.method} trains nothing, and the `pretrained` weights of {called} have their head for "
            f"other classes than the {head} of the data: give `weights` that were trained on it",
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
    target = targets.load(request.target, request.precision).mixing(network.widths)
    target = target.described(facts(task.preprocessing))
    targets.require_inputs(target, signature)
    size_of = Sizer(target, inputs)
    size_of(model)  # what the target can't take is known before anything is trained
    solvers = tuple(
        Solver(
            _for_codes(_by_metric(budget, task), request.rounding),
            pruning,
            size_of,
            request.target,
            reserve=MOVING if target.precision in PALETTES and budget.size is not None else 0.0,
        )
        for pruning, budget in resolved.phases
    )
    notes = (fit.sentence(request.weights or called),) if fit else ()
    if resolved.method.keep and all(bool(mask.all()) for mask in masks_of_zeros(model).values()):
        notes = (*notes, _DENSE)
    if (price := resolved.price) is not None:
        first, *rest = solvers
        metered, note = ranks.broadcast_from_first(lambda: _metered(first, price, network, target, progress))
        solvers, notes = (metered, *rest), (*notes, note)
    for solver in solvers:
        if not resolved.method.keep:
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
        f"{'' if (note := price.note()) is None else f'; {note}'}"
    )


def _by_metric(budget: Budget, task: CheckedTask) -> Budget:
    """The budget, with an allowance of change that knows what the task compares."""
    if not isinstance(budget.allowance, Change):
        return budget
    return replace(budget, allowance=replace(budget.allowance, metric=task.metric))


def _for_codes(budget: Budget, rounding: str | None) -> Budget:
    """The budget, with room for what codes that samples choose take beyond the nearest ones, which are counted."""
    if budget.size is None or rounding != CALIBRATED:
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


def _as_trained(found: Found, resolved: Resolved) -> dict[str, Any]:
    """The options of the task, with the preprocessing that the trained weights which are begun with want."""
    options, request = dict(resolved.task_options), resolved.request
    named = request.model if isinstance(request.model, str) else ""
    if str(options.get("data")).startswith(("text:", "hf:")) and named.startswith("hf:"):
        options = {"tokenizer": named.removeprefix("hf:"), **options}
    wanted = found.preprocessing if request.pretrained or request.weights is not None else None
    if request.weights is not None:
        wanted = preprocessing_of(Path(request.weights)) or wanted
    if wanted and "task" not in options:
        options["preprocessing"] = replace(wanted, classes=None)
    return options
