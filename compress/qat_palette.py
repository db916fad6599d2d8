"""Weights rounded to a palette while they are trained, which is found anew in every step, as a file's is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dwindle.export.codes.palette import centres, levels
from dwindle.export.quantize import SCALES, fp16_holds, scales_gain, worth_scales

if TYPE_CHECKING:
    from torch import Tensor


def by_palette(rows: Tensor, bits: int) -> Tensor:
    """Weights as a file with a palette of `bits` bits holds them (`quantize.store`), in the same shape, (rows, weights
    of a row). Zeros stay zero."""
    alive = rows != 0
    counts = alive.sum(1)
    survivors = int(counts.sum())
    if not survivors:
        return rows
    plain, _ = _nearest(rows, alive, bits)
    if not worth_scales(len(rows), survivors):
        return plain
    size = (rows.double().square().sum(1) / counts.clamp(min=1)).sqrt().float()
    grid = torch.from_numpy(SCALES.astype(np.float32)).to(rows.device)
    found = grid[torch.searchsorted(grid, size).clamp(max=len(grid) - 1)]
    scale = torch.where(counts > 0, found, found.max())[:, None]
    codes, values = _nearest(rows / scale, alive, bits)
    if not fp16_holds(values.cpu().numpy(), scale.cpu().numpy()):
        return plain
    scaled = codes * scale
    noise, less = (torch.linalg.vector_norm(one - rows, dtype=torch.float64).square() for one in (plain, scaled))
    return torch.where(noise > scales_gain(len(rows), survivors) * less, scaled, plain)


def _nearest(rows: Tensor, alive: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Each weight as the nearest value of a palette of them all, and the palette, without zero."""
    found = centres(rows[alive], levels(bits)).half().float()
    found = values = found[found != 0]
    if bits == 4 or not len(found):
        values = torch.cat([found, found.new_zeros(1)]).sort().values
    places = torch.bucketize(rows, (values[1:] + values[:-1]) / 2)
    return torch.where(alive, values[places], torch.zeros_like(rows)), found
