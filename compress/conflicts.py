"""Options of a request that are out of range, that exclude each other, or that another one needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dwindle.compress.calibrate.update import LEAST_SQUARES
from dwindle.compress.methods import Method
from dwindle.compress.request import Request
from dwindle.errors import UsageError
from dwindle.export.target import CALIBRATED, ROUNDINGS
from dwindle.models.spec import TRAINING, TaskSpec
from dwindle.models.trust import is_code
from dwindle.options import options


def check_ranges(request: Request) -> None:
    def require(fine: bool, name: str, remedy: str) -> None:
        if not fine:
            value = getattr(request, name)
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"`{name}` is {shown}: {remedy}", code="out-of-range", option=name)

    pace = request.prune_per_round
    require(pace is None or 0 < pace < 1, "prune_per_round", "give a share between 0 and 1; the paper's is 0.2")
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
    require(request.distill >= 0, "distill", "give passes over the samples, such as 20, or 0 for none")
    require(0 <= (request.gradual or 0) <= 1, "gradual", "give a share from 0 to 1; 0.5 is half of each retraining")
    require(0 <= (request.qat or 0) <= 1, "qat", "give a share from 0 to 1; 0.3 rounds in a retraining's last 30%")
    if drop is not None and share is not None:
        raise conflict("max_change", "`max_drop` is for data with labels and `max_change` for data without: give one")
    if request.rounds is not None and (drop is not None or share is not None):
        given = "max_drop" if share is None else "max_change"
        raise conflict("rounds", f"`{given}` finds the number of rounds by itself: leave out `rounds`")


def check_method(request: Request, retraining: Method, task: Mapping[str, Any]) -> None:
    """Raises UsageError for options that the method can't be combined with."""
    name = request.method
    if request.gradual and (retraining.search or retraining.restore or retraining.last_lr):
        raise conflict(
            "gradual", f"`method` {name} prunes before it retrains: leave out `gradual`, or use `method` lr-rewind"
        )
    if not retraining.retrains:
        _check_untrained(request, retraining)
    if request.max_change is not None and retraining.retrains:
        raise conflict(
            "max_change", f"`method` {name} needs labels, and `max_change` is for data without any: give `max_drop`"
        )
    if request.calib_samples is not None and retraining.samples is None:
        raise conflict("calib_samples", f"`method` {name} solves no weights on samples: leave out `calib_samples`")
    if request.distill and retraining.samples is None:
        raise conflict("distill", f"`method` {name} has no samples without labels to be taught by: leave out `distill`")
    if request.update is not None and request.update != LEAST_SQUARES:
        raise UsageError(
            f"`update` {request.update!r} is unknown: give {LEAST_SQUARES}", code="unknown-name", option="update"
        )
    if request.update and (not retraining.retrains or retraining.restore or request.gradual):
        other = "`gradual` prunes while it retrains" if request.gradual else f"`method` {name} changes them afterwards"
        other = other if retraining.retrains else f"`method` {name} does not retrain"
        raise conflict("update", f"`update` solves survivors before a retraining, and {other}: leave out `update`")
    if request.rounding is not None and request.rounding not in ROUNDINGS:
        raise UsageError(
            f"`rounding` {request.rounding!r} is unknown: give {' or '.join(ROUNDINGS)}",
            code="unknown-name",
            option="rounding",
        )
    if request.rounding == CALIBRATED and retraining.samples is None:
        raise conflict(
            "rounding",
            f"`method` {name} sees no calibration samples: leave out `rounding`, and give it to export afterwards",
        )
    if request.episodes is not None and not retraining.search:
        raise conflict("episodes", f"`method` {name} has no `episodes`, which are AMC's: leave them out")
    if request.weights is not None and request.pretrained:
        raise conflict("pretrained", "`weights` are loaded instead of `pretrained` ones: leave one of them out")
    if request.new_head and request.weights is None:
        raise conflict("new_head", "`new_head` says what is left out of `weights`, and there are none: leave it out")
    if request.expect_accuracy is not None and request.weights is None:
        raise conflict("expect_accuracy", "`expect_accuracy` is that of `weights`, and there are none: leave it out")
    if request.weights is not None and not (request.new_head or request.train_dense) and retraining.restore:
        raise conflict(
            "weights",
            f"`method` {name} goes back to an earlier state of the dense training, and `weights` come without one: use "
            "lr-rewind or finetune, or train the dense network here",
        )
    if retraining.last_lr and task.get("schedule") == "cosine":
        raise conflict(
            "schedule",
            f"`method` {name} keeps the last learning rate of the schedule, which is 0 for a cosine such as `recipe` "
            "best has: give `schedule` step",
        )


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
    trained = ["recipe", "gradual", "rounds", "recalibrate", "new_head", "train_dense"]
    if not request.distill:
        trained.append("qat")
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
        remedy = "give `distill` as well, or " if given[0] == "qat" and not retraining.keep else ""
        raise conflict(given[0], f"`method` {name} {why}: {remedy}leave out `{given[0]}`")


def check_mixed(request: Request, retraining: Method) -> None:
    """What `precision` mixed, which chooses bits and density of each layer for a size, can't be combined with."""
    if request.size is None:
        raise UsageError(
            "`precision` mixed chooses each layer's bits for the bytes of a file: give its `size`, and no other budget",
            code="missing-option",
            option="size",
        )
    others = ("density", "macs", "cost", "latency", "layer_share")
    given = [name for name in others if getattr(request, name)]
    given += ["score"] * (request.score not in (None, "magnitude"))
    if given:
        raise conflict(given[0], f"`precision` mixed chooses the density of each layer itself: leave out `{given[0]}`")
    if retraining.search or retraining.keep:
        raise conflict(
            "method",
            f"`method` {request.method} has densities already: give `precision` mixed another, or one precision",
        )


def conflict(option: str, sentence: str) -> UsageError:
    return UsageError(sentence, code="conflict", option=option)
