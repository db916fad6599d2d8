"""Choosing the precision of the smallest file that loses no more accuracy than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dwindle.errors import BudgetMissed
from dwindle.quantities import format_bytes, within

if TYPE_CHECKING:
    from torch import nn

    from dwindle.models.checked_task import CheckedTask

AUTO = "auto"


def smallest(
    sizes: Mapping[str, int],
    ships: Callable[[str], nn.Module],
    task: CheckedTask,
    dense: float,
    max_drop: float,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """The precision of the smallest file that loses at most `max_drop` points of validation.

    sizes: bytes of the network's file at each precision; of equal ones the first is taken. ships: makes the network as
    it ships at a precision (`shipping.as_file`). dense: what the dense network reached on validation, in points. say:
    called with a sentence for each precision that is tried. Raises BudgetMissed where all lose more.
    """
    drops: dict[str, float] = {}
    for precision in sorted(sizes, key=sizes.__getitem__):
        drops[precision] = dense - task.evaluate(ships(precision), "validation")
        say(
            f"{precision} ({format_bytes(sizes[precision])}) loses {drops[precision]:.2f} points of validation against "
            f"the dense network, {max_drop:g} are allowed"
        )
        if within(drops[precision], max_drop):
            return precision
    least = min(drops, key=drops.__getitem__)
    raise BudgetMissed(
        f"no precision loses at most {max_drop:g} points: {least} loses {drops[least]:.2f}; raise `max_drop`, or "
        "compress less",
        code="max-drop-missed",
        option="max_drop",
        name=least,
    )
