"""What a network would take, and lose without training, at a precision: for plans."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dwindle.compress.calibrate.reconstruct import reconstruct
from dwindle.compress.recalibrate import can_recalibrate
from dwindle.compress.size import Sizer
from dwindle.errors import BudgetMissed
from dwindle.export import targets
from dwindle.export.facts import facts
from dwindle.export.shipping import as_file, calibrated
from dwindle.models import ranks
from dwindle.models.layerwise.samples import spread

if TYPE_CHECKING:
    from dwindle.compress.network import Network
    from dwindle.compress.prepared import Prepared

TRIED = 256
"""Samples that a plan calibrates on."""


@dataclass(frozen=True)
class AtPrecision:
    """What the budget comes to at one precision of the target."""

    precision: str
    bytes: int
    """Of the target's file."""
    density: float
    """Of the prunable weights, what the budget leaves."""
    untrained_loss: float | None
    """The points of validation that `method` calibrate would lose, its weights rounded; None where nothing is known."""


def at_each(ready: Prepared) -> tuple[AtPrecision, ...]:
    """The budget of a request at every precision that its target has here and that meets it."""
    name, inputs, found = ready.resolved.request.target, ready.task.example_inputs(), []
    *before, last = ready.solvers
    for precision in targets.possible(name):
        target = targets.load(name, precision).described(facts(ready.task.preprocessing))
        small = ready.network.copy()
        with suppress(BudgetMissed):  # by this precision
            for solver in (*before, replace(last, packed_bytes=Sizer(target, inputs))):
                if solver.excess(small) > 1:
                    solver.granularity.shrink(small, solver.largest_share(small))
            size = solver.packed_bytes(small.model)
            found.append(AtPrecision(precision, size, small.density, untrained_loss(ready, small, precision)))
    return tuple(found)


def untrained_loss(ready: Prepared, small: Network, precision: str | None) -> float | None:
    """The points that `small`, the pruned network, lacks once its survivors are solved, in place, and its file rounds
    them. None where the weights aren't trained, or the task has no real inputs."""
    task, dense, name = ready.task, ready.network.model, ready.resolved.request.target
    if not (ready.trained and can_recalibrate(task)) or ready.resolved.method.keep or ranks.world() > 1:
        return None
    whole = task.evaluate(dense, "validation")
    reconstruct(small, dense, spread(task.training_inputs(), TRIED))
    target = calibrated(targets.load(name, precision).mixing(ready.network.widths), task)
    return whole - task.evaluate(as_file(target, small.model, task.example_inputs()), "validation")
