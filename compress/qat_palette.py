"""The values of a palette that weights take while they are trained, found anew in every step by k-means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dwindle.export.codes.palette import levels
from dwindle.export.quantize import SCALES, worth_scales

if TYPE_CHECKING:
    from torch import Tensor

_ITERATIONS = 20


def by_palette(rows: Tensor, bits: int) -> Tensor:
    """Weights as a palette of `bits` bits holds them, in the same shape, (rows, weights of a row). Zeros stay zero.

    Rows have scales of their own where a file is likely to have them: it weighs their bytes, and here their number
    alone decides, so that the same weights are rounded alike whatever came before.
    """
    alive = rows != 0
    if not alive.any():
        return rows
    scale = torch.ones(len(rows), 1, device=rows.device)
    if worth_scales(len(rows), int(alive.sum())):
        size = (rows.double().square().sum(1) / alive.sum(1).clamp(min=1)).sqrt().float()
        grid = torch.from_numpy(SCALES.astype(np.float32)).to(rows.device)
        found = grid[torch.searchsorted(grid, size).clamp(max=len(grid) - 1)]
        scale = torch.where(alive.any(1), found, found.max())[:, None]
    scaled = rows / scale
    values = centres(scaled[alive], levels(bits)).half().float()
    if bits == 4:
        values = torch.cat([values, values.new_zeros(1)]).sort().values
    places = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2)
    return torch.where(alive, values[places] * scale, torch.zeros_like(rows))


def centres(values: Tensor, count: int) -> Tensor:
    """The centres of k-means of numbers, ascending, (count,): Lloyd's algorithm, begun at their quantiles.

    Sorted numbers of one cluster follow each other, so that a step of it takes sums between `count` - 1 bounds.
    """
    ordered = values.double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    quantiles = (torch.arange(count, device=values.device) + 0.5) / count * len(ordered)
    found = ordered[quantiles.long().clamp(max=len(ordered) - 1)]
    ends = torch.tensor([0, len(ordered)], device=values.device)
    for _ in range(_ITERATIONS):
        bounds = torch.searchsorted(ordered, (found[1:] + found[:-1]) / 2)
        edges = torch.cat([ends[:1], bounds, ends[1:]])
        members = edges.diff()
        means = sums[edges].diff() / members.clamp(min=1)
        found = torch.where(members > 0, means, found)
    return found.float()
