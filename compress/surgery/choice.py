"""Which channels go: scores that can be compared across layers, and a choice that meets a budget.

Between two rounds of training:

    found = find_groups(model, example_inputs)
    keep = choose(found, score(found, model), macs=0.8 * found.macs())
    prove(model, keep, example_inputs)
    model, momentum = cut(model, keep), cut_tensors(momentum, keep)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor, nn

from dwindle.compress.surgery.cut import Keep, cut, cut_tensors
from dwindle.compress.surgery.exactness import prove
from dwindle.compress.surgery.find import find_groups
from dwindle.compress.surgery.groups import Found, Group
from dwindle.errors import BudgetMissed

__all__ = ["Found", "Group", "Keep", "best", "choose", "cut", "cut_tensors", "find_groups", "prove", "score", "step"]

GroupScore = Callable[[Found, nn.Module], list[Tensor]]
"""A score for every unit of every group, comparable across groups: float[units] each. The lowest go first."""

Spent = Callable[[Sequence[int]], float]
"""What a network costs with so many units left of each group."""


def score(found: Found, model: nn.Module) -> list[Tensor]:
    """The magnitude of every unit, float32[units] per group: what removing it takes away.

    The L2 norm of a unit's slice is taken in each parameter it is bound to (weights and biases that make it, norms
    that scale it, weights that read it), relative to the mean over the units of the group, and averaged over the
    parameters. So a group's mean is 1 whatever the scale, fan-in or depth of its layers: one ranking serves the whole
    network, and no layer goes first because its weights are small. (Magnitude of what goes together as in Fang et al.,
    DepGraph, CVPR 2023.)
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return [_group_score(group, parameters) for group in found.groups]


def _group_score(group: Group, parameters: dict[str, Tensor]) -> Tensor:
    relative = [torch.ones(group.units)]
    for place in group.places:
        if place.tensor in parameters:
            tensor = parameters[place.tensor]
            others = [dim for dim in range(tensor.dim()) if dim != place.dim]
            slices = torch.linalg.vector_norm(tensor, dim=others, dtype=torch.float32) if others else tensor.float()
            norm = torch.linalg.vector_norm(slices.cpu()[place.indices], dim=1)
            if norm.any():
                relative.append(norm / norm.mean())
    return torch.stack(relative[1:] or relative).mean(0)


def step(group: Group, align: int) -> int:
    """How many units make the least multiple of `align` channels in every layer the group is in."""
    return align // math.gcd(align, group.channels)


def choose(
    found: Found,
    scores: Sequence[Tensor],
    *,
    macs: float | None = None,
    parameters: float | None = None,
    price: tuple[float, Spent] | None = None,
    share: float | None = None,
    align: int = 8,
    at_least: Sequence[int] | None = None,
    at_most: Sequence[int] | None = None,
    whole: Container[str] = (),
) -> Keep:
    """Removes the units of least score, over all groups, until the network costs no more than is asked.

    `macs` and `parameters` are what may be left of `found.macs()` and `found.parameters()`, `price` is how much may be
    spent of what its function says, `share` (0 to 1) what may be left of all units; all that are given hold. Every
    group keeps a multiple of `align` channels (1: any number) or all of them; what is then left of the budget is given
    back, best unit first. Every group keeps as many units as `at_least` says (without it, one) or more, and as many as
    `at_most` says or fewer, up to the next multiple; groups that make channels of a tensor named in `whole` lose none.

    Raises BudgetMissed where the least that can be left costs more.
    """
    limits: list[tuple[float, Spent, str]] = [] if price is None else [(*price, "of its price")]
    limits += [] if macs is None else [(macs, found.macs, "MACs")]
    limits += [] if parameters is None else [(parameters, found.parameters, "parameters")]
    order = torch.cat(list(scores)).argsort(stable=True)
    fewest = least(found, at_least, align=align, whole=whole)
    most = least(found, found.units if at_most is None else at_most, align=align, whole=whole)
    owner = torch.repeat_interleave(torch.arange(len(found.groups)), torch.tensor(found.units))[order]

    def left(removed: int) -> list[int]:
        gone = torch.bincount(owner[:removed], minlength=len(found.groups)).tolist()
        return [
            min(max(_left(group, n, align), low), high)
            for group, n, low, high in zip(found.groups, gone, fewest, most, strict=True)
        ]

    def over(units: Sequence[int]) -> str | None:
        """What is wrong with leaving so many units, if anything."""
        for limit, cost, name in limits:
            if (spent := cost(units)) > limit:
                return f"{spent:,.0f} {name} ({spent / cost(found.units):.0%}), not {limit:,.0f}"
        if share is not None and (kept := sum(units) / len(order)) > share:
            return f"{kept:.0%} of the channels, not {share:.0%}"
        return None

    if excess := over(fewest):
        raise BudgetMissed(
            f"removing channels down to the last multiple of {align} in every layer leaves {excess}: "
            "ask for more, align to less, or prune what is left more finely"
        )
    units = left(bisect_left(range(len(order)), True, key=lambda removed: over(left(removed)) is None))
    return best(found, scores, _refilled(found, scores, units, most, align, lambda units: over(units) is None))


def least(
    found: Found, at_least: Sequence[int] | None = None, *, align: int = 8, whole: Container[str] = ()
) -> list[int]:
    """The fewest units that may be left of each group: one step or `at_least`, or all of it where it is `whole`."""
    return [
        group.units
        if any(place.writes and place.tensor in whole for place in group.places)
        else _left(group, group.units - floor, align)
        for group, floor in zip(found.groups, at_least or [1] * len(found.groups), strict=True)
    ]


def best(found: Found, scores: Sequence[Tensor], units: Sequence[int]) -> Keep:
    """Leaves so many units of each group, those of greatest score."""
    return found.keep(
        [s.argsort(descending=True, stable=True)[:n].sort().values for s, n in zip(scores, units, strict=True)]
    )


def _refilled(
    found: Found,
    scores: Sequence[Tensor],
    units: list[int],
    most: Sequence[int],
    align: int,
    fits: Callable[[Sequence[int]], bool],
) -> list[int]:
    """Gives back steps while they fit: the last one to go may have been a large layer's."""
    ranked = [s.sort(descending=True).values.tolist() for s in scores]
    candidates = {i for i, limit in enumerate(most) if units[i] < limit}
    while candidates:
        i = max(candidates, key=lambda i: ranked[i][units[i]])
        more = min(units[i] + step(found.groups[i], align), most[i])
        if fits([*units[:i], more, *units[i + 1 :]]):
            units = [*units[:i], more, *units[i + 1 :]]
        if units[i] < more or more == most[i]:
            candidates.remove(i)
    return units


def _left(group: Group, gone: int, align: int) -> int:
    """What aligning leaves of a group that so many units may leave."""
    unit = step(group, align)
    return min(group.units, math.ceil(max(group.units - gone, 1) / unit) * unit)
