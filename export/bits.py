"""`--precision auto`: the fewest bits per weight that cost no more accuracy than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dwindle.errors import BudgetMissed
from dwindle.quantities import within

if TYPE_CHECKING:
    from torch import nn

    from dwindle.task import Task

AUTO = "auto"
BITS = {"int8": 8, "fp16": 16, "fp32": 32}


def fewest_bits(
    precisions: Sequence[str],
    ships: Callable[[str], nn.Module],
    task: Task,
    dense: float,
    max_drop: float,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """The first of `precisions`, fewest bits first, that loses at most `max_drop` points of validation.

    ships: the network as it ships at a precision (`shipping.as_file`). dense: what the dense network reached there.
    `say` hears of each that is tried. Raises BudgetMissed where even the last loses more.
    """
    drop = 0.0
    for precision in sorted(precisions, key=BITS.__getitem__):
        drop = dense - task.evaluate(ships(precision), "validation")
        say(f"{precision} loses {drop:.2f} points of validation against the dense network, {max_drop:g} are allowed")
        if within(drop, max_drop):
            return precision
    raise BudgetMissed(
        f"no precision stays within {max_drop:g} points: {max(precisions, key=BITS.__getitem__)} loses {drop:.2f}; "
        "allow more, or compress less"
    )
