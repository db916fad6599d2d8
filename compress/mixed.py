"""`precision` mixed: what each tensor is stored in and how much of it survives, chosen together for a size in bytes.

Of what each tensor may become (`tensor_options`) a knapsack takes one; what the file has beside the tensors is found by
counting it whole. Losses don't quite add up, and every precision that a file uses takes bytes for what unpacks it: so
the choice is also made among fewer precisions, and the one is taken by which the outputs lose least, all tensors
changed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dwindle.compress.amc.arrival import arrival
from dwindle.compress.blocks import Blocks
from dwindle.compress.knapsack import choose
from dwindle.compress.masks import mask_applier
from dwindle.compress.tensor_options import WIDTHS, Candidate, Trial, measured
from dwindle.export import targets
from dwindle.export.quantize import MIXED, PALETTES
from dwindle.record import Choice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.compress.budget import Solver
    from dwindle.compress.network import Network

AMONG = (WIDTHS, *(("fp16", "int8", one) for one in PALETTES), ("fp16", "int8"))
"""The sets of precisions that are chosen from. Short rows have int8 at the least, and biases fp16."""
COUNTS = 5
"""How often a whole file is counted for each of them, at most."""


def chosen(network: Network, solver: Solver, inputs: tuple[Tensor, ...]) -> dict[str, Choice]:
    """What each tensor of a trained, dense network is to become for the size of the solver's budget, by name.

    inputs: real ones, (N, …). Raises what `measured` does.
    """
    pruning, size = solver.granularity, solver.budget.size
    assert isinstance(pruning, Blocks)
    assert size is not None
    options, trial = measured(network, pruning, targets.load(solver.target, MIXED), inputs)
    best: dict[str, Candidate] = {}
    least = math.inf
    for widths in AMONG:
        own = {name: [one for one in each if one.choice.precision in widths] for name, each in options.items()}
        found = within(network, pruning, own, size, solver.packed_bytes)
        loss = _together(trial, found) if found else math.inf
        if loss < least or not best:
            best, least = found or {name: each[0] for name, each in own.items()}, loss
    return {name: one.choice for name, one in best.items()}


def within(
    network: Network,
    pruning: Blocks,
    options: Mapping[str, Sequence[Candidate]],
    size: int,
    count: Callable[[nn.Module], int],
) -> dict[str, Candidate]:
    """A candidate for each tensor, by name, with which the file has at most `size` bytes; empty where none was found.

    network: trained and dense; its `widths` are changed. count: the bytes of a network's file, by those.
    """
    every = {name: [one.option for one in own] for name, own in options.items()}
    fitting: dict[str, Candidate] = {}
    least, beside, seen = math.inf, 0.0, set()
    for _ in range(COUNTS):
        taken = choose(every, size - beside)
        if (key := tuple(taken.values())) in seen:
            break
        seen.add(key)
        found = {name: options[name][index] for name, index in taken.items()}
        whole = count(_pruned(network, pruning, {name: one.choice for name, one in found.items()}).model)
        loss = sum(one.option.loss for one in found.values())
        if whole <= size and loss < least:
            fitting, least = found, loss
        beside = whole - sum(one.option.bytes for one in found.values())
    return fitting


def _pruned(network: Network, pruning: Blocks, choices: Mapping[str, Choice]) -> Network:
    """A copy of a network with the masks that were chosen. Both get the widths."""
    apply(network, choices)
    small = network.copy()
    weights = pruning.layers.of(small.model, small.kernels)
    small.masks = {name: pruning.alone(weights[name], choices[name].density) for name in weights if name in choices}
    mask_applier(small.model, small.masks)()
    return small


def _together(trial: Trial, found: Mapping[str, Candidate]) -> float:
    return trial.loss({name: (one.held, one.bias) for name, one in found.items()})


def apply(network: Network, choices: Mapping[str, Choice]) -> None:
    """Sets a network's `widths` to what was chosen."""
    network.widths.clear()
    network.widths.update({name: choice.precision for name, choice in choices.items()})


def along(solver: Solver, network: Network, choices: Mapping[str, Choice]) -> Solver:
    """The solver that prunes every tensor to its density, and beyond it all by the same factor. The network's `widths`
    are set to the choice."""
    pruning = solver.granularity
    assert isinstance(pruning, Blocks)
    apply(network, choices)
    score = arrival({name: choice.density for name, choice in choices.items()})
    return replace(solver, granularity=replace(pruning, score=score))


def sentence(choices: Mapping[str, Choice]) -> str:
    """What was chosen, for people."""
    each = (
        f"{name.removesuffix('.weight')} {one.precision}" + (f" at {one.density:.0%}" if one.density < 1 else "")
        for name, one in choices.items()
    )
    return f"precision mixed, by what each layer loses: {', '.join(each)}"
