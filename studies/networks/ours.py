"""What dwindle makes of a network: channels at half its multiply-accumulates, weights at 20%, and files of both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.macs import macs
from dwindle.compress.network import Network
from dwindle.compress.surgery.choice import choose, cut, find_groups, least, prove, score
from dwindle.compress.surgery.cut import Keep
from dwindle.compress.surgery.groups import Found, explain
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.export import targets
from dwindle.export.first_off import named
from dwindle.export.fold import deployable
from dwindle.export.parity import UNPROVEN, compare
from dwindle.files import raw_bytes
from studies.networks.sample import batch

Row = dict[str, Any]
Inputs = tuple[Tensor, ...]

SHARE, DENSITY = 0.5, 0.2
SETTINGS = ((False, 8), (False, 1), (True, 8), (True, 1))
"""Tried in this order until one reaches half: whether cuts may be inexact, and what widths are multiples of."""


def half(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Row]:
    """The network at half of its MACs, or as near as there is, and how it came to that."""
    furthest: tuple[float, Found, Keep, Row] | None = None
    for inexact, align in SETTINGS:
        try:
            found = find_groups(model, inputs, inexact=inexact)
        except UsageError as error:
            refused = error
            continue
        how = {"inexact": inexact, "align": align, "groups": len(found.groups), "whole": explain(found.uncut)[:300]}
        fewest = least(found, align=align)
        with suppress(BudgetMissed):
            keep = choose(found, score(found, model), macs=SHARE * found.macs(), align=align)
            furthest = (SHARE, found, keep, how)
            break
        if furthest is None or found.macs(fewest) / found.macs() < furthest[0]:
            keep = found.keep([torch.arange(units) for units in fewest])
            furthest = (found.macs(fewest) / found.macs(), found, keep, how)
    if furthest is None:
        raise refused
    reached, found, keep, how = furthest
    apart = prove(model, found.without(keep, inexact=True), inputs)
    small = cut(model, keep).eval()
    left = sum(macs(small, inputs).values()) / sum(macs(model, inputs).values())
    return small, {"half": reached <= SHARE and left < 0.55, "macs_left": left, "error": apart, **how}


def sparse(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The network with a fifth of its weights."""
    network = Network(model)
    Blocks().shrink(network, DENSITY)
    return network.model.eval()


def written(name: str, small: Callable[[nn.Module, Inputs], nn.Module], model: nn.Module, inputs: Inputs) -> Row:
    """A target's file of what `small` makes of the network, compared with it."""
    network, real = small(model, inputs), batch(inputs, 3)
    target = targets.load(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"net{target.suffix}")
        shipped = deployable(network, inputs)
        try:
            target = target.holding(shipped, inputs, real)
            target.write(shipped, inputs, path, pack=True)
            parity = compare(target, path, network, shipped, real).parity
        except DwindleError as error:
            why = named(error, target, shipped, inputs, real, pack=True)
            return {"outcome": UNPROVEN if error.code == UNPROVEN else "refused", "said": str(why)[:400]}
        done = {"bytes": raw_bytes(path), "relative": parity.relative, "tolerance": parity.tolerance}
        return {"outcome": "right" if parity.relative is not None else UNPROVEN, "said": parity.not_run, **done}
