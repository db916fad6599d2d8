"""ARM64 cost as people read it, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dwindle.bench.result import DENSE, Row
from dwindle.bench.views.wording import ABSENT

TITLE = "ARM64 cost"
LEGEND = (
    "ARM64 cost: instructions that one inference executes on an emulated {cpu} ({emulator}): repeatable, and not a "
    "time · MACs: multiply-accumulates executed, and over those of the network's layers: kernels work in tiles that "
    "reach past small feature maps · apart: from the outputs here, over the largest"
)


@dataclass(frozen=True)
class CostCells:
    """One row's cost, ABSENT where a figure isn't known."""

    instructions: str
    ratio: str
    """Over the dense file's."""
    macs: str
    tiles: str
    """MACs executed over the network's."""
    sparse: str
    """Instructions with sparse kernels, over those without."""
    apart: str


def cost_cells(row: Row) -> CostCells | None:
    """A row's cost in words; None where it has none."""
    cost = row.cost
    if cost is None:
        return None
    every = cost.instructions["all"]
    return CostCells(
        instructions=count(every),
        ratio="" if row.role == DENSE else f"{cost.ratio:.3f}" if cost.ratio else ABSENT,
        macs=count(cost.macs),
        tiles=f"{cost.macs / cost.network_macs:.3f}×" if cost.network_macs else ABSENT,
        sparse=f"{cost.sparse['all'] / every:.3f}" if cost.sparse else "",
        apart=ABSENT if cost.relative is None else f"{cost.relative:.0e}",
    )


def legend(rows: Iterable[Row]) -> str:
    """What the figures mean, and of which CPU and emulator they are."""
    known = [row.cost for row in rows if row.cost]
    cpu = ", ".join(dict.fromkeys(cost.cpu for cost in known))
    return LEGEND.format(cpu=cpu, emulator=", ".join(dict.fromkeys(cost.emulator for cost in known)))


def count(number: float) -> str:
    """`333 K`, `121.3 M`, `4.10 G`: three digits or four."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            scaled = number / size
            return f"{scaled:.{2 if scaled < 10 else 1}f} {unit}"
    return f"{number:.0f}"
