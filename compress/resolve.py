"""From a request to what `compress` does: every option is checked, and every default filled in, before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dwindle.checkpoint import weights_file
from dwindle.compress.allowance import Allowance, Change
from dwindle.compress.amc import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.benefit import choose
from dwindle.compress.budget import Budget
from dwindle.compress.channels import Counted
from dwindle.compress.conflicts import check_method, check_mixed, check_ranges, conflict
from dwindle.compress.granularity import granularity
from dwindle.compress.layer_shares import LayerShares
from dwindle.compress.layers import Layers
from dwindle.compress.methods import Method, method
from dwindle.compress.network import Granularity
from dwindle.compress.qat import PRECISIONS
from dwindle.compress.recipes import (
    PHOTO_RECIPES,
    PLAIN,
    Pace,
    Recipe,
    default_score,
    photo_epochs,
    preset_options,
    recipe,
)
from dwindle.compress.request import Request
from dwindle.compress.scores import load as load_score
from dwindle.errors import UsageError
from dwindle.export import target_options, targets
from dwindle.export.auto import AUTO
from dwindle.export.quantize import MIXED
from dwindle.export.target import CALIBRATED
from dwindle.files import sha256
from dwindle.models.objects import recorded
from dwindle.models.photos.rule import ACROSS, photographs_in
from dwindle.options import options
from dwindle.price import Price
from dwindle.price import load as load_price
from dwindle.quantities import parse_bytes, parse_macs, parse_milliseconds

Phase = tuple[Granularity, Budget]
KEEP = Budget(density=1.0)
"""Of a network that is kept as it is: any meets it."""


@dataclass(frozen=True)
class Resolved:
    """A request that makes sense, with everything that follows from it."""

    request: Request
    """The request as it was given, with every default that depends on other options filled in."""
    phases: tuple[Phase, ...]
    """What is pruned, in order, and down to what."""
    method: Method
    recipe: Recipe
    search: Settings | None
    """The settings of AMC's search, where the method has one."""
    choice: str
    """The granularity and why it was chosen, in words."""
    task_options: Mapping[str, Any]
    """The options from which `dwindle.models.make_task` makes the task."""
    price: Price | None = None
    """What says how much layers cost, where the budget limits that."""

    @property
    def pace(self) -> Pace:
        """How fast it prunes: the request's, filled in."""
        return Pace(**{each.name: getattr(self.request, each.name) for each in fields(Pace)})

    @property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint records and a resumed run must repeat; model and task are added once they are built."""
        request = self.request
        values = {each.name: getattr(request, each.name) for each in options(Request) if each.recorded}
        recorded = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
            "recalibrate": request.recalibrate or None,  # runs begun before there was this option can be resumed
            "prune_per_round": request.prune_per_round if request.rounds is None else None,
            # The content, not the path: the same weights may lie elsewhere when the run is resumed.
            "weights": sha256(Path(request.weights)) if request.weights is not None else None,
        }
        # Runs begun before there were these options can be resumed.
        later = (
            "calib_samples", "rounding", "update", "max_change", "pretrained", "new_head", "train_dense",
            "inexact_cuts", "dynamic", "qat", "layer_share", "cost",
            "latency", "on", "distill",
        )  # fmt: skip
        unset = {name for name in later if not recorded[name]}
        return {name: value for name, value in recorded.items() if name not in unset}


def resolve(request: Request) -> Resolved:
    """Checks a request and fills in its defaults.

    Raises UsageError with the `option` at fault: a value out of range (code `out-of-range`), an unknown name
    (`unknown-name`), options that exclude each other (`conflict`), or one that is missing (`missing`).
    """
    check_ranges(request)
    if request.weights is not None:
        request = replace(request, weights=str(weights_file(Path(request.weights))))
    retraining = method(request.method, request.rewind_to)
    own = task_options(request.task)
    preset, task, said = _preset(request, retraining, own)
    check_method(request, retraining, task)
    if request.precision == AUTO:
        raise UsageError(
            "`precision` auto is chosen when files are written: give one of the target's, or mixed; dwindle plan takes "
            "auto, and says what each would take and lose",
            code="not-before-export",
            option="precision",
        )
    precision, why_precision = _precision(request, preset)
    target = targets.load(request.target, precision)
    if request.rounding == CALIBRATED:
        target_options.require_codes([target])
    if request.qat and target.precision not in PRECISIONS:
        raise conflict(
            "qat",
            f"`qat` trains through the rounding of weights to {', '.join(PRECISIONS)}, and `precision` is "
            f"{target.precision}: give one of these that {request.target} has, or leave out `qat`",
        )
    if request.qat and request.rounding == CALIBRATED:
        raise conflict(
            "qat",
            "`qat` trains through rounding to the nearest code, and `rounding` calibrated ships another: leave out one",
        )
    if target.precision == MIXED:
        check_mixed(request, retraining)
    for other in request.targets:
        targets.load(other)
    name, why = request.granularity, "as requested"
    if retraining.keep:
        name, why = "unstructured", "the zeros that the weights came with"
    if name == "auto":
        name, why = choose(request.target, target.packs_zeros, computing=_computing(request))
    elif name == "fast":
        name, why = target.fastest, f"of what is pruned, {request.target} gains the most speed from it"
    full = replace(
        request,
        precision=request.precision or target.precision,
        score=_score(request, preset, retraining),
        recalibrate=preset.recalibrate if request.recalibrate is None else request.recalibrate,
        rewind_to=retraining.start,
        size=parse_bytes(request.size) if isinstance(request.size, str) else request.size,
        macs=parse_macs(request.macs) if isinstance(request.macs, str) else request.macs,
        cost=parse_macs(request.cost) if isinstance(request.cost, str) else request.cost,
        latency=parse_milliseconds(request.latency) if isinstance(request.latency, str) else request.latency,
    )
    phases = ((granularity(name, load_score("magnitude"), Layers()), KEEP),) if retraining.keep else _phases(full, name)
    if target.precision == MIXED and name != "unstructured":
        raise conflict(
            "granularity", f"`precision` mixed chooses the density of each layer, not of {name}: leave it out"
        )
    if request.gradual and phases[-1][0].kind != "weights":
        raise conflict("gradual", f"`granularity` {name} prunes before it retrains: leave out `gradual`")
    search = _search(full, phases) if retraining.search else None
    full = replace(
        full,
        size=phases[-1][1].size,
        density=None if retraining.keep else phases[-1][1].density,
        macs=phases[0][1].macs,
        cost=phases[0][1].cost,
        latency=phases[0][1].latency,
        episodes=search.episodes if search else None,
        calib_samples=request.calib_samples or retraining.samples,
    )
    priced = phases[0][1].price
    price = load_price(priced, request.target, target.precision, request.on) if priced else None
    pace = _pace(full, preset, retraining, phases, trains_through=target.precision in PRECISIONS)
    full = replace(full, prune_per_round=pace.prune_per_round, gradual=pace.gradual, qat=pace.qat)
    if len(phases) > 1 and phases[0][1].allowance:
        why += "; channels may lose half of what is allowed, and weights the rest"
    choice = f"granularity {name}: {why}{said}{why_precision}"
    return Resolved(full, phases, retraining, preset, search, choice, task, price)


def task_options(task: Any) -> dict[str, Any]:
    """The options that the task of a request, in any of its forms, is recorded by."""
    if isinstance(task, str):
        return {"data": task}
    return dict(task) if isinstance(task, Mapping) else {"task": recorded(task)}


def _preset(request: Request, retraining: Method, own: dict[str, Any]) -> tuple[Recipe, dict[str, Any], str]:
    """The recipe, as asked for or by the data; the options of the task; and a clause that says which was chosen."""
    name, said, options = request.recipe, "", {**own, "seed": request.seed}
    if "task" in own:
        return PLAIN if name is None else replace(recipe(name), precisions=(), pace=Pace()), options, said
    photographs = photographs_in(str(own.get("data"))) if own.get("photographs") is not False else 0
    if name is None and photographs and retraining.retrains:
        name = "finetune-photo" if request.weights is not None or request.pretrained else "photo"
        said = f"; recipe {name}: most of the {photographs:,} images are {ACROSS} pixels across or more"
        if retraining.last_lr:  # which a cosine, such as this recipe's, leaves at 0
            options = {"schedule": "step", **options}
    preset = PLAIN if name is None else recipe(name)
    by_size = {"epochs": photo_epochs(name, photographs)} if name in PHOTO_RECIPES and photographs else {}
    return preset, {**preset_options(preset, retraining), **by_size, **options}, said


def _precision(request: Request, preset: Recipe) -> tuple[str | None, str]:
    """The precision as asked for, or the recipe's for a size; and a clause that says so."""
    if request.precision or not preset.precisions or request.size is None or request.rounding == CALIBRATED:
        return request.precision, ""
    has = targets.load(request.target).precisions
    chosen = next((each for each in preset.precisions if each in has), None)
    return chosen, f"; precision {chosen}: fewer bits lose less for the bytes than zeros do" if chosen else ""


def _pace(
    request: Request, preset: Recipe, retraining: Method, phases: tuple[Phase, ...], *, trains_through: bool
) -> Pace:
    """The pace as given, else the recipe's. trains_through: whether `qat` can train through the rounding."""
    (pruned, budget), *more = phases
    whole = retraining.retrains and not (retraining.restore or retraining.last_lr or retraining.search)
    single = pruned.kind == "weights" and not more and budget.allowance is None
    usual = preset.pace if whole and single and not request.update else Pace()
    through = preset.pace.qat if trains_through and retraining.retrains and request.rounding != CALIBRATED else 0.0
    given = (request.prune_per_round, request.gradual, request.qat)
    shares = zip(given, (usual.prune_per_round, usual.gradual, through), strict=True)
    return Pace(*(other if own is None else own for own, other in shares))


def _score(request: Request, preset: Recipe, retraining: Method) -> str:
    """The score as asked for, or the default; magnitude where each layer's density is chosen otherwise."""
    if request.score is not None:
        return request.score
    if request.precision == MIXED:
        return "magnitude"
    return default_score(preset, retraining, pretrained=request.pretrained, new_head=request.new_head)


def _phases(request: Request, name: str) -> tuple[Phase, ...]:
    """What is pruned, in order, and down to what, for a granularity of that name."""
    layers = Layers(tuple(request.include), tuple(request.exclude))
    score = load_score("magnitude" if request.score is None else request.score)
    priced = _computing(request)
    counts: Counted = "parameters" if priced is None else "MACs" if priced == "macs" else "price"
    floor, inexact, shares = request.layer_floor, request.inexact_cuts, LayerShares.of_texts(request.layer_share)
    if shares.patterns and "+" in name:
        raise conflict("layer_share", f"`layer_share` is of channels or of weights, and {name} prunes both")
    parts = [
        granularity(part, score, layers, request.align, counts, floor, inexact=inexact, shares=shares)
        for part in name.split("+")
    ]
    if inexact and not any(part.kind == "channel" for part in parts):
        raise conflict("inexact_cuts", f"`inexact_cuts` are cuts of channels, and {name} pruning makes none")
    size, macs, cost, latency = request.size, request.macs, request.cost, request.latency
    assert not isinstance(size, str)
    assert not isinstance(macs, str)
    assert not isinstance(cost, str)
    assert not isinstance(latency, str)
    density, allowance = request.density, _allowance(request)
    if allowance and parts[-1].floor is not None:
        option = allowance.option
        raise conflict(option, f"`granularity` {name} implies its own density: leave out `{option}`")
    if len(parts) == 1:
        if (size, density, priced, allowance) == (None, None, None, None):
            density = parts[0].floor  # a pattern such as 2:4 implies its own density
        if priced is not None and parts[0].kind != "channel":
            why = "which computes with zeros" if priced == "macs" else "as layers are priced by their widths"
            raise conflict(priced, f"`{priced}` cannot be met by {name} pruning, {why}: use `granularity` channel")
        return ((parts[0], Budget(size, density, macs, cost, latency, allowance)),)
    if [part.kind for part in parts[:-1]] != ["channel"] or parts[-1].kind == "channel":
        raise UsageError(
            f"`granularity` is {name}: only channel+SOMETHING can be combined, channels first",
            code="invalid-value",
            option="granularity",
        )
    if allowance:
        whole = Budget(size, density, macs, cost, latency, allowance)  # refused beside a limit
        return (parts[0], Budget(allowance=allowance.half)), (parts[1], whole)
    if priced is None or (size is None and density is None) or request.rounds:
        raise conflict(
            "granularity",
            f"`granularity` {name} needs `macs`, `cost` or `latency` for channels and `size` or `density` else, or "
            "`max_drop` or `max_change` alone, and no `rounds`",
        )
    return (parts[0], Budget(macs=macs, cost=cost, latency=latency)), (parts[1], Budget(size, density))


def _computing(request: Request) -> str | None:
    """The option that limits what an inference computes; None where none is given. Raises UsageError for two."""
    given = [name for name in ("macs", "cost", "latency") if getattr(request, name) is not None]
    if request.on is not None and request.latency is None:
        raise conflict("on", "`on` says what `latency` is predicted for, and there is none: give `latency`")
    if len(given) > 1:
        raise conflict(given[1], f"`{given[0]}` and `{given[1]}` both limit what is computed: give one of them")
    return given[0] if given else None


def _allowance(request: Request) -> Allowance | None:
    if request.max_change is not None:
        return Change(100 * request.max_change)
    return None if request.max_drop is None else Allowance(request.max_drop)


def _search(request: Request, phases: tuple[Phase, ...]) -> Settings:
    """The settings of AMC's search; raises UsageError for what it can't allocate."""
    if request.max_drop is not None:
        raise conflict(
            "max_drop", "`method` amc allocates a given budget: give `size`, `density` or `macs`, not `max_drop`"
        )
    if request.inexact_cuts:
        raise conflict("inexact_cuts", "`method` amc makes exact cuts only: leave out `inexact_cuts`")
    if request.layer_share:
        raise conflict("layer_share", "`method` amc finds the share of every layer itself: leave out `layer_share`")
    if len(phases) > 1 or request.score != "magnitude":
        raise conflict(
            "score" if request.score != "magnitude" else "granularity",
            "`method` amc chooses the share of every layer itself, of one granularity: leave out `score`, and give "
            "unstructured or channel",
        )
    allocate.check(phases[0][0])
    if (priced := _computing(request)) in ("cost", "latency"):
        raise conflict(priced, f"`method` amc knows no prices of layers: give `macs` instead of `{priced}`")
    return Settings.of(request.episodes, request.seed)
