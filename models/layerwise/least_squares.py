"""Least squares under a mask: each row's surviving weights, solved for the outputs that are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.models.layerwise.moments import Moments

DAMPING = 0.01
"""Relative to the inputs' mean square: what a direction of the inputs must amount to before weights follow it."""


@dataclass(frozen=True)
class Solution:
    """What came of one layer."""

    rows: Tensor
    """The weights as matrices, float64: (groups, outputs, inputs); zero where the mask is."""
    before: float
    """Squared error of the weights that were there, as a share of the wanted outputs' energy."""
    after: float
    """The same of `rows`: never more."""


def solve(moments: Moments, rows: Tensor, mask: Tensor, damping: float = DAMPING) -> Solution:
    """Moves the weights that `mask` leaves to where the squared error is least.

    `rows`, `mask`: (groups, outputs, inputs), float and boolean; weights under a False count as zero. The solution of

        min ‖X w - y‖² + λ ‖w - rows‖²,   λ = damping times the mean of the diagonal of XᵀX

    keeps to the weights that are there in whatever the inputs say nothing of: an input that is always zero, fewer
    positions than inputs. A row that it would make worse, or that can't be solved, stays as it is.
    """
    start = (rows * mask).double()
    solved = start.clone()
    for group in range(len(rows)):
        inner, cross = moments.inner[group], moments.cross[group]
        ridge = damping * float(inner.diagonal().mean())
        if ridge <= 0:  # no input was ever anything but zero, or undamped
            ridge = torch.finfo(torch.float64).tiny
        patterns, which = torch.unique(mask[group], dim=0, return_inverse=True)
        for pattern, survivors in enumerate(patterns):
            members, columns = (which == pattern).nonzero()[:, 0], survivors.nonzero()[:, 0]
            if len(columns) == 0:
                continue
            square = inner[columns[:, None], columns]
            old = start[group, members[:, None], columns].T
            missing = cross[columns[:, None], members] - square @ old
            square.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(square)
            if not int(failed):
                moved = old + torch.cholesky_solve(missing, factor)
                solved[group, members[:, None], columns] = moved.T
    before, after = moments.error(start), moments.error(solved)
    worse = ~(after <= before)
    solved = torch.where(worse[..., None], start, solved)
    energy = float(moments.energy.sum()) or 1.0
    return Solution(solved, float(before.sum()) / energy, float(torch.where(worse, before, after).sum()) / energy)
