"""A forecast of a compression: rounds, time and bytes, from a few measured training steps of a copy."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dwindle.compress import mixed
from dwindle.compress.network import Network
from dwindle.compress.precisions import AtPrecision, at_each, untrained_loss
from dwindle.compress.prepared import Prepared, prepare
from dwindle.compress.request import Request, request_for
from dwindle.compress.size import Sizer
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.export import targets
from dwindle.export.auto import AUTO
from dwindle.export.facts import facts
from dwindle.export.quantize import MIXED
from dwindle.export.zeros import Verdict
from dwindle.models.copies import copied
from dwindle.notebook import Tables, table
from dwindle.quantities import format_bytes, format_seconds

if TYPE_CHECKING:
    from torch import nn

WARM_UP_STEPS, WARM_UP_SECONDS = 20, 2.0


@dataclass(frozen=True)
class Bytes:
    """The on-disk size of a target's file, in bytes."""

    target: str
    dense: int
    """The size before compression."""
    compressed: int


@dataclass(frozen=True)
class Rehearsed:
    """What the export of the untrained network to a target came to: see `dwindle.compress.rehearsal`."""

    target: str
    sentence: str
    exit_code: int
    """What `compress` would end with because of it, before it trains: 0 where it would go on."""


@dataclass(frozen=True)
class Priced:
    """What an inference costs, in a unit that `cost` or `latency` limits."""

    unit: str
    dense: float
    compressed: float
    """By the table of layers."""
    sentence: str


@dataclass(frozen=True)
class Forecast:
    """What `compress` would do with a request; `plan` makes it.

    >>> plan(Request("zoo:resnet8", task="digits", size="25KB")).rounds
    13
    """

    share: float
    """The share of the prunable weights or channels that the budget leaves, estimated on the untrained weights."""
    rounds: int
    """The number of retrainings that follow the dense training."""
    steps: int | None
    """The number of optimizer steps of all trainings; None where the task doesn't say how many its schedule has."""
    seconds: float | None
    """The time of all trainings on this machine, from a short measured warm-up; evaluation is not counted."""
    bytes: tuple[Bytes, ...]
    """The sizes of each target's file, for the request's `target` and `targets`."""
    benefits: tuple[Verdict, ...]
    """Whether the granularity at that density makes the file smaller or faster, and on which unit, for each of the same
    targets."""
    rehearsed: tuple[Rehearsed, ...]
    """Whether each of the same targets takes the network; empty where the request turns the `rehearsal` off."""
    priced: Priced | None = None
    """What an inference costs in the unit of the budget, where that is `cost` or `latency`."""
    untrained_loss: float | None = None
    """The points of validation that `method` calibrate would lose, which trains nothing: tried in one step on few
    samples, and judged as the file rounds weights. None where the weights aren't trained, or the task has no real
    inputs."""
    precisions: tuple[AtPrecision, ...] = ()
    """For the request's `target`, what each of its precisions would take and lose, where `precision` is auto; the
    figures above are of its own precision."""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What it would come to, in words: of what, and the fact. Options are named as fields in backticks."""
        training = "for how long isn't known, because the task has no `steps`"
        if self.seconds is not None:
            training = f"{self.steps} optimizer steps, about {format_seconds(self.seconds)} on this machine"
        facts = [
            ("density", f"about {self.share:.1%} after {self.rounds} round{'s' * (self.rounds != 1)}"),
            ("training", training),
        ]
        for size, benefit in zip(self.bytes, self.benefits, strict=True):
            smaller = f"{format_bytes(size.dense)} → {format_bytes(size.compressed)}"
            facts.append((size.target, f"{smaller}, {size.dense / size.compressed:.1f}×; {benefit.sentence()}"))
        if self.priced:
            facts.append(("an inference", self.priced.sentence))
        if self.untrained_loss is not None:
            lost = f"about {self.untrained_loss:.2f} points lost on validation"
            facts.append(("without training, by `method` calibrate", lost))
        for one in self.precisions:
            lost = (
                "" if one.untrained_loss is None else f", about {one.untrained_loss:.2f} points lost without training"
            )
            facts.append((one.precision, f"{format_bytes(one.bytes)} at a density of {one.density:.1%}{lost}"))
        return [*facts, *((f"{each.target}, rehearsed", each.sentence) for each in self.rehearsed)]

    def _repr_html_(self) -> str:
        """A table of what it would come to, for a notebook."""
        return table("forecast", self.facts)


def plan(
    model: nn.Module | Request | str, progress: Callable[[str], None] = lambda line: None, **options: Any
) -> Forecast:
    """Forecasts what `compress` would do with a network, in seconds instead of its whole training.

        >>> plan("zoo:resnet8", data="digits", size="25KB", targets=("coreml",)).bytes
        (Bytes(target='onnx', dense=310520, compressed=24870), Bytes(target='coreml', dense=163657, compressed=30584))

    model, options: those of `compress`; `precision` may be auto, which forecasts every precision of the target.
    progress: called with sentences about what takes long.

    Raises what `compress` would raise before it trains, except for what the rehearsal finds: that is in the forecast,
    for each target.
    """
    return _forecast(request_for(model, options), progress=progress)


SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)
"""The densities that `curve` tries."""


def curve(model: nn.Module | Request | str, **options: Any) -> list[Forecast]:
    """Forecasts several budgets, for whoever doesn't know yet which to give: each of SHARES that can be reached.

        >>> forecasts = curve("zoo:resnet8", data="digits")
        >>> [(each.share, each.bytes[0].compressed) for each in forecasts]

    model, options: those of `compress`, without a budget. The network is rehearsed and timed once, for the first.
    Raises as `plan` does.
    """
    request = request_for(model, options)
    if request.precision == AUTO:
        raise UsageError(
            "`precision` auto forecasts every precision for one budget: give `size` or `density` beside it",
            code="missing-option",
            option="precision",
        )
    found = Tables[Forecast]()
    for share in SHARES:
        pace = found[0].seconds / found[0].steps if found and found[0].seconds and found[0].steps else None
        try:
            found.append(_forecast(replace(request, density=share, rehearsal=request.rehearsal and not found), pace))
        except BudgetMissed:
            break  # smaller ones can't be reached either
    return found


def _forecast(
    request: Request, pace: float | None = None, progress: Callable[[str], None] = lambda line: None
) -> Forecast:
    """pace: seconds per optimizer step; measured where it is None."""
    for option in ("max_drop", "max_change"):
        if getattr(request, option) is not None:
            raise UsageError(
                f"how far `{option}` goes is only known once networks have been judged: plan with `size`, `density` or "
                "`macs`",
                code="conflict",
                option=option,
            )
    if auto := request.precision == AUTO:
        request = replace(request, precision=None)
    ready = _mixed(prepare(request, progress))
    request, network, solver = ready.resolved.request, ready.network, ready.solvers[-1]
    small = network.copy()
    for phase in ready.solvers:
        share = phase.largest_share(small)
        phase.granularity.shrink(small, share)
    rounds = request.rounds or max(
        1, math.ceil(math.log(max(share, 1e-6)) / math.log(1 - ready.resolved.pace.prune_per_round) - 0.25)
    )
    whole = ready.task.steps
    trained = ready.trained
    steps = whole and (0 if trained else whole) + rounds * math.ceil(whole * (1 - ready.resolved.method.start))
    if not ready.resolved.method.retrains:
        rounds, steps = len(ready.solvers), 0
    inputs, sizes, benefits = ready.task.example_inputs(), [], []
    rehearsed = _rehearsed(ready) if request.rehearsal else ()
    for name in ready.targets:
        if any(one.target == name and one.exit_code for one in rehearsed):
            continue  # a target that can't take the network has no file of it either
        target = targets.load(name).described(facts(ready.task.preprocessing))
        count = solver.packed_bytes if name == request.target else Sizer(target, inputs)
        sizes.append(Bytes(name, count(network.model), count(small.model)))
        own = targets.load(name, request.precision) if name == request.target else target
        benefits.append(own.verdict(solver.granularity.kind, small.density, solver.granularity.rows))
    seconds = _seconds(ready, steps) if pace is None or steps is None else pace * steps
    return Forecast(
        share,
        rounds,
        steps,
        seconds,
        tuple(sizes),
        tuple(benefits),
        rehearsed,
        _priced(ready, small),
        untrained_loss(ready, small, request.precision),
        at_each(ready) if auto else (),
    )


def _mixed(ready: Prepared) -> Prepared:
    """The same, pruning along what `precision` mixed chooses for the weights as they are, where it is asked for."""
    if ready.resolved.request.precision != MIXED:
        return ready
    [solver] = ready.solvers
    choices = mixed.chosen(ready.network, solver, ready.task.training_inputs())
    return replace(ready, solvers=(mixed.along(solver, ready.network, choices),))


def _priced(ready: Prepared, small: Network) -> Priced | None:
    meter = ready.solvers[0].meter
    if meter is None:
        return None
    spent, words = meter.of(small.model), meter.price.words
    return Priced(meter.price.unit, meter.dense, spent, f"{words(meter.dense)} → {words(spent)}; {ready.notes[-1]}")


def _rehearsed(ready: Prepared) -> tuple[Rehearsed, ...]:
    rehearsal = ready.rehearse()
    return tuple(
        Rehearsed(name, rehearsal.sentence(name), refused.exit_code if (refused := rehearsal.refusal(name)) else 0)
        for name in rehearsal.outcomes
    )


class _WarmUpDone(DwindleError):
    """Raised from within a training to end it after the warm-up."""


def _seconds(ready: Prepared, steps: int | None) -> float | None:
    """Seconds for `steps`, from the pace of a short training of a copy of the model.

    The median step: the first ones also allocate, and have kernels compiled for their shapes.
    """
    if not steps:
        return None if steps is None else 0.0
    ends: list[float] = []

    def on_step(loss: float) -> None:
        ends.append(time.perf_counter())
        if len(ends) > WARM_UP_STEPS and ends[-1] - ends[WARM_UP_STEPS // 2] > WARM_UP_SECONDS:
            raise _WarmUpDone

    with contextlib.suppress(_WarmUpDone):
        ready.task.fit(copied(ready.network.model), start=0.0, on_step=on_step)
    paces = [later - earlier for earlier, later in pairwise(ends)]
    return statistics.median(paces) * steps if paces else None
