"""Granularities by name: channels, single weights, blocks of weights, N:M."""

from __future__ import annotations

import re

from dwindle.compress.blocks import Blocks
from dwindle.compress.channels import Channels, Counted
from dwindle.compress.layer_shares import LayerShares
from dwindle.compress.layers import Layers
from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Granularity
from dwindle.compress.scores import Score
from dwindle.errors import UsageError


def granularity(
    name: str,
    score: Score,
    layers: Layers,
    align: int = 8,
    counts: Counted = "parameters",
    layer_floor: float = 0.0,
    *,
    inexact: bool = False,
    shares: LayerShares | None = None,
) -> Granularity:
    """Returns the granularity of that name.

    The names are `channel`, `unstructured`, `RxC` (blocks of R output by C input channels) and `N:M`. `align`,
    `counts`, `layer_floor` and `inexact` are for channels: see `Channels`. `shares`: of layers that have one of their
    own. Raises UsageError for any other name, and for shares beside a pattern, which implies them.
    """
    shares = shares or LayerShares()
    if name == "channel":
        return Channels(align, layers, counts=counts, layer_floor=layer_floor, inexact=inexact, shares=shares)
    if name == "unstructured":
        return Blocks(1, 1, score, layers, shares)
    if match := re.fullmatch(r"(?:block )?(\d+)x(\d+)", name):
        rows, columns = int(match[1]), int(match[2])
        if rows and columns:
            return Blocks(rows, columns, score, layers, shares)
    if match := re.fullmatch(r"(\d+):(\d+)", name):
        n, m = int(match[1]), int(match[2])
        if 0 < n < m and shares.patterns:
            raise UsageError(
                f"`granularity` {name} implies the density of every layer: leave out `layer_share`",
                code="conflict",
                option="layer_share",
            )
        if 0 < n < m:
            return NofM(n, m, score, layers)
    raise UsageError(
        f"unknown granularity {name!r}: write channel, unstructured, a block such as 4x1, or N:M such as 2:4",
        code="unknown-name",
        option="granularity",
        name=name,
    )
