"""From a request to what `compress` does: every option is checked, and every default filled in, before training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dwindle.compress.allowance import Allowance, Change
from dwindle.compress.amc import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.benefit import choose
from dwindle.compress.budget import Budget
from dwindle.compress.calibrate.update import LEAST_SQUARES
from dwindle.compress.channels import Counted
from dwindle.compress.granularity import granularity
from dwindle.compress.layer_shares import LayerShares
from dwindle.compress.layers import Layers
from dwindle.compress.methods import Method, method
from dwindle.compress.network import Granularity
from dwindle.compress.qat import PRECISIONS
from dwindle.compress.recipes import PHOTO_RECIPES, PLAIN, Recipe, default_score, photo_epochs, preset_options, recipe
from dwindle.compress.request import Request
from dwindle.compress.scores import load as load_score
from dwindle.errors import UsageError
from dwindle.export import target as targets
from dwindle.export import target_options
from dwindle.export.auto import AUTO
from dwindle.export.quantize import MIXED
from dwindle.files import sha256
from dwindle.models.objects import recorded
from dwindle.models.photos.rule import ACROSS, photographs_in
from dwindle.models.spec import TRAINING, TaskSpec
from dwindle.models.trust import is_code
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
            "latency", "on",
        )  # fmt: skip
        unset = {name for name in later if not recorded[name]}
        return {name: value for name, value in recorded.items() if name not in unset}


def resolve(request: Request) -> Resolved:
    """Checks a request and fills in its defaults.

    Raises UsageError with the `option` at fault: a value out of range (code `out-of-range`), an unknown name
    (`unknown-name`), options that exclude each other (`conflict`), or one that is missing (`missing`).
    """
    _check_ranges(request)
    retraining = method(request.method, request.rewind_to)
    own = task_options(request.task)
    preset, task, said = _preset(request, retraining, own)
    _check_method(request, retraining, task)
    if request.precision == AUTO:
        raise UsageError(
            "`precision` auto is chosen when files are written: give one of the target's, or mixed; dwindle plan takes "
            "auto, and says what each would take and lose",
            code="not-before-export",
            option="precision",
        )
    target = targets.load(request.target, request.precision)
    if request.rounding == targets.CALIBRATED:
        target_options.require_codes([target])
    if request.qat and target.precision not in PRECISIONS:
        raise _conflict(
            "qat",
            f"`qat` trains through the rounding of weights to {', '.join(PRECISIONS)}, and `precision` is "
            f"{target.precision}: give one of these that {request.target} has, or leave out `qat`",
        )
    if request.qat and request.rounding == targets.CALIBRATED:
        raise _conflict(
            "qat",
            "`qat` trains through rounding to the nearest code, and `rounding` calibrated ships another: leave out one",
        )
    if target.precision == MIXED:
        _check_mixed(request, retraining)
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
        raise _conflict(
            "granularity", f"`precision` mixed chooses the density of each layer, not of {name}: leave it out"
        )
    if request.gradual and phases[-1][0].kind != "weights":
        raise _conflict("gradual", f"`granularity` {name} prunes before it retrains: leave out `gradual`")
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
    return Resolved(full, phases, retraining, preset, search, f"granularity {name}: {why}{said}", task, price)


def task_options(task: Any) -> dict[str, Any]:
    """The options that the task of a request, in any of its forms, is recorded by."""
    if isinstance(task, str):
        return {"data": task}
    return dict(task) if isinstance(task, Mapping) else {"task": recorded(task)}


def _preset(request: Request, retraining: Method, own: dict[str, Any]) -> tuple[Recipe, dict[str, Any], str]:
    """The recipe, as asked for or by the data; the options of the task; and a clause that says which was chosen."""
    name, said, options = request.recipe, "", {**own, "seed": request.seed}
    if "task" in own:
        return PLAIN if name is None else recipe(name), options, said
    photographs = photographs_in(str(own.get("data"))) if own.get("photographs") is not False else 0
    if name is None and photographs and retraining.retrains:
        name = "finetune-photo" if request.weights is not None or request.pretrained else "photo"
        said = f"; recipe {name}: most of the {photographs:,} images are {ACROSS} pixels across or more"
        if retraining.last_lr:  # which a cosine, such as this recipe's, leaves at 0
            options = {"schedule": "step", **options}
    preset = PLAIN if name is None else recipe(name)
    by_size = {"epochs": photo_epochs(name, photographs)} if name in PHOTO_RECIPES and photographs else {}
    return preset, {**preset_options(preset, retraining), **by_size, **options}, said


def _check_ranges(request: Request) -> None:
    def require(fine: bool, name: str, remedy: str) -> None:
        if not fine:
            value = getattr(request, name)
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"`{name}` is {shown}: {remedy}", code="out-of-range", option=name)

    require(0 < request.prune_per_round < 1, "prune_per_round", "give a share between 0 and 1; the paper's is 0.2")
    require(request.rounds is None or request.rounds >= 1, "rounds", "give 1 (one-shot) or more")
    drop = request.max_drop
    require(drop is None or 0 <= drop < math.inf, "max_drop", "give a number of points, 0 or more, such as 1.0")
    share = request.max_change
    require(share is None or 0 < share <= 1, "max_change", "give a share of the answers, above 0, such as 0.02")
    require(0 <= request.seed < 2**63, "seed", "give a number from 0 up to, not including, 2**63")
    require(0 <= request.layer_floor < 1, "layer_floor", "give a share from 0 (no floor) up to, not including, 1")
    require(request.save_every >= 0, "save_every", "give minutes, or 0 to save after every step")
    require(request.keep_samples >= 0, "keep_samples", "give 0 or more; 64 are enough to compare files on")
    require(request.align >= 1, "align", "give 1 or more; 8 suits most kernels, and 1 allows any width")
    count = request.calib_samples
    require(count is None or count >= 2, "calib_samples", "give 2 or more, better hundreds")
    require(0 <= request.gradual <= 1, "gradual", "give a share from 0 to 1; 0.5 prunes over half of each retraining")
    require(0 <= request.qat <= 1, "qat", "give a share from 0 to 1; 0.3 rounds weights in a retraining's last 30%")
    if drop is not None and share is not None:
        raise _conflict("max_change", "`max_drop` is for data with labels and `max_change` for data without: give one")
    if request.rounds is not None and (drop is not None or share is not None):
        given = "max_drop" if share is None else "max_change"
        raise _conflict("rounds", f"`{given}` finds the number of rounds by itself: leave out `rounds`")


def _check_method(request: Request, retraining: Method, task: Mapping[str, Any]) -> None:
    """Raises UsageError for options that the method can't be combined with."""
    name = request.method
    if request.gradual and (retraining.search or retraining.restore or retraining.last_lr):
        raise _conflict(
            "gradual", f"`method` {name} prunes before it retrains: leave out `gradual`, or use `method` lr-rewind"
        )
    if not retraining.retrains:
        _check_untrained(request, retraining)
    if request.max_change is not None and retraining.retrains:
        raise _conflict(
            "max_change", f"`method` {name} needs labels, and `max_change` is for data without any: give `max_drop`"
        )
    if request.calib_samples is not None and retraining.samples is None:
        raise _conflict("calib_samples", f"`method` {name} solves no weights on samples: leave out `calib_samples`")
    if request.update is not None and request.update != LEAST_SQUARES:
        raise UsageError(
            f"`update` {request.update!r} is unknown: give {LEAST_SQUARES}", code="unknown-name", option="update"
        )
    if request.update and (not retraining.retrains or retraining.restore or request.gradual):
        other = "`gradual` prunes while it retrains" if request.gradual else f"`method` {name} changes them afterwards"
        other = other if retraining.retrains else f"`method` {name} does not retrain"
        raise _conflict("update", f"`update` solves survivors before a retraining, and {other}: leave out `update`")
    if request.rounding is not None and request.rounding not in targets.ROUNDINGS:
        raise UsageError(
            f"`rounding` {request.rounding!r} is unknown: give {' or '.join(targets.ROUNDINGS)}",
            code="unknown-name",
            option="rounding",
        )
    if request.rounding == targets.CALIBRATED and retraining.samples is None:
        raise _conflict(
            "rounding",
            f"`method` {name} sees no calibration samples: leave out `rounding`, and give it to export afterwards",
        )
    if request.episodes is not None and not retraining.search:
        raise _conflict("episodes", f"`method` {name} has no `episodes`, which are AMC's: leave them out")
    if request.weights is not None and request.pretrained:
        raise _conflict("pretrained", "`weights` are loaded instead of `pretrained` ones: leave one of them out")
    if request.new_head and request.weights is None:
        raise _conflict("new_head", "`new_head` says what is left out of `weights`, and there are none: leave it out")
    if request.expect_accuracy is not None and request.weights is None:
        raise _conflict("expect_accuracy", "`expect_accuracy` is that of `weights`, and there are none: leave it out")
    if request.weights is not None and not (request.new_head or request.train_dense) and retraining.restore:
        raise _conflict(
            "weights",
            f"`method` {name} goes back to an earlier state of the dense training, and `weights` come without one: use "
            "lr-rewind or finetune, or train the dense network here",
        )
    if retraining.last_lr and task.get("schedule") == "cosine":
        raise _conflict(
            "schedule",
            f"`method` {name} keeps the last learning rate of the schedule, which is 0 for a cosine such as `recipe` "
            "best has: give `schedule` step",
        )


def _check_mixed(request: Request, retraining: Method) -> None:
    """What `precision` mixed, which chooses bits and density of each layer for a size, can't be combined with."""
    if request.size is None:
        raise UsageError(
            "`precision` mixed chooses each layer's bits for the bytes of a file: give its `size`",
            code="missing-option",
            option="size",
        )
    others = ("density", "macs", "cost", "latency", "layer_share")
    given = [name for name in others if getattr(request, name)]
    given += ["score"] * (request.score not in (None, "magnitude"))
    if given:
        raise _conflict(given[0], f"`precision` mixed chooses the density of each layer itself: leave out `{given[0]}`")
    if retraining.search or retraining.keep:
        raise _conflict(
            "method",
            f"`method` {request.method} has densities already: give `precision` mixed another, or one precision",
        )


def _score(request: Request, preset: Recipe, retraining: Method) -> str:
    """The score as asked for, or the recipe's; magnitude where each layer's density is chosen otherwise."""
    if request.score is not None:
        return request.score
    return "magnitude" if request.precision == MIXED else default_score(preset, retraining)


def _check_untrained(request: Request, retraining: Method) -> None:
    """What methods that train nothing can't do without, or can't be combined with."""
    name = request.method
    if isinstance(request.model, str) and not (request.weights or request.pretrained or is_code(request.model)):
        raise UsageError(
            f"`method` {name} trains nothing, and {request.model} begins untrained: give the trained network's "
            "`weights`, or `pretrained` where its source has some",
            code="missing-option",
            option="weights",
        )
    defaults = {each.name: each.default for each in options(Request)}
    trained = ["recipe", "gradual", "qat", "rounds", "recalibrate", "new_head", "train_dense"]
    if retraining.keep:
        trained += [
            "layer_share",
            "size",
            "density",
            "macs",
            "cost",
            "latency",
            "max_drop",
            "max_change",
            "granularity",
            "score",
            "include",
            "exclude",
        ]
    if retraining.keep or (request.max_drop is None and request.max_change is None):
        trained.append("prune_per_round")
    given = [each for each in trained if getattr(request, each) != defaults[each]]
    if isinstance(request.task, Mapping) and "data" in request.task:
        given += [each.name for each in options(TaskSpec) if each.group == TRAINING and each.name in request.task]
    if given:
        why = "keeps the network as it is" if retraining.keep else "trains nothing"
        raise _conflict(given[0], f"`method` {name} {why}: leave out `{given[0]}`")


def _phases(request: Request, name: str) -> tuple[Phase, ...]:
    """What is pruned, in order, and down to what, for a granularity of that name."""
    layers = Layers(tuple(request.include), tuple(request.exclude))
    score = load_score("magnitude" if request.score is None else request.score)
    priced = _computing(request)
    counts: Counted = "parameters" if priced is None else "MACs" if priced == "macs" else "price"
    floor, inexact, shares = request.layer_floor, request.inexact_cuts, LayerShares.of_texts(request.layer_share)
    if shares.patterns and "+" in name:
        raise _conflict("layer_share", f"`layer_share` is of channels or of weights, and {name} prunes both")
    parts = [
        granularity(part, score, layers, request.align, counts, floor, inexact=inexact, shares=shares)
        for part in name.split("+")
    ]
    if inexact and not any(part.kind == "channel" for part in parts):
        raise _conflict("inexact_cuts", f"`inexact_cuts` are cuts of channels, and {name} pruning makes none")
    size, macs, cost, latency = request.size, request.macs, request.cost, request.latency
    assert not isinstance(size, str)
    assert not isinstance(macs, str)
    assert not isinstance(cost, str)
    assert not isinstance(latency, str)
    if len(parts) == 1:
        density = request.density
        allowance = _allowance(request)
        if (size, density, priced, allowance) == (None, None, None, None):
            density = parts[0].floor  # a pattern such as 2:4 implies its own density
        if priced is not None and parts[0].kind != "channel":
            why = "which computes with zeros" if priced == "macs" else "as layers are priced by their widths"
            raise _conflict(priced, f"`{priced}` cannot be met by {name} pruning, {why}: use `granularity` channel")
        if allowance and parts[0].floor is not None:
            option = allowance.option
            raise _conflict(option, f"`granularity` {name} implies its own density: leave out `{option}`")
        return ((parts[0], Budget(size, density, macs, cost, latency, allowance)),)
    if [part.kind for part in parts[:-1]] != ["channel"] or parts[-1].kind == "channel":
        raise UsageError(
            f"`granularity` is {name}: only channel+SOMETHING can be combined, channels first",
            code="invalid-value",
            option="granularity",
        )
    if priced is None or (size is None and request.density is None) or request.rounds or _allowance(request):
        raise _conflict(
            "granularity",
            f"`granularity` {name} needs `macs`, `cost` or `latency` for channels, `size` or `density` else, and "
            "neither `rounds` nor `max_drop` nor `max_change`",
        )
    return (parts[0], Budget(macs=macs, cost=cost, latency=latency)), (parts[1], Budget(size, request.density))


def _computing(request: Request) -> str | None:
    """The option that limits what an inference computes; None where none is given. Raises UsageError for two."""
    given = [name for name in ("macs", "cost", "latency") if getattr(request, name) is not None]
    if request.on is not None and request.latency is None:
        raise _conflict("on", "`on` says what `latency` is predicted for, and there is none: give `latency`")
    if len(given) > 1:
        raise _conflict(given[1], f"`{given[0]}` and `{given[1]}` both limit what is computed: give one of them")
    return given[0] if given else None


def _allowance(request: Request) -> Allowance | None:
    if request.max_change is not None:
        return Change(100 * request.max_change)
    return None if request.max_drop is None else Allowance(request.max_drop)


def _search(request: Request, phases: tuple[Phase, ...]) -> Settings:
    """The settings of AMC's search; raises UsageError for what it can't allocate."""
    if request.max_drop is not None:
        raise _conflict(
            "max_drop", "`method` amc allocates a given budget: give `size`, `density` or `macs`, not `max_drop`"
        )
    if request.inexact_cuts:
        raise _conflict("inexact_cuts", "`method` amc makes exact cuts only: leave out `inexact_cuts`")
    if request.layer_share:
        raise _conflict("layer_share", "`method` amc finds the share of every layer itself: leave out `layer_share`")
    if len(phases) > 1 or request.score != "magnitude":
        raise _conflict(
            "score" if request.score != "magnitude" else "granularity",
            "`method` amc chooses the share of every layer itself, of one granularity: leave out `score`, and give "
            "unstructured or channel",
        )
    allocate.check(phases[0][0])
    if (priced := _computing(request)) in ("cost", "latency"):
        raise _conflict(priced, f"`method` amc knows no prices of layers: give `macs` instead of `{priced}`")
    return Settings.of(request.episodes, request.seed)


def _conflict(option: str, sentence: str) -> UsageError:
    return UsageError(sentence, code="conflict", option=option)
