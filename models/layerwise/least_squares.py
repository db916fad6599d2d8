"""Least squares under a mask: each row's surviving weights, solved for the outputs that are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dwindle.models.layerwise.moments import Moments

DAMPING = 0.01
"""Relative to the inputs' mean square: what a direction of the inputs must amount to before weights follow it."""
WELL, WHOLE = 1e-4, 4096
"""The damping from which on, and how many inputs up to which, their Gram matrix is inverted as a whole: its condition
is then at most a few tens of millions, which float64 bears, and what that takes at most 400 MB."""
TOLERANCE, MOST = 1e-4, 400
"""What conjugate gradients may leave of a row's gradient, as a share of what it was, and in how many steps: of
what the squared error can fall by, at most a ten-thousandth is missing."""
STEP_WORTH = 80
"""A row is solved by conjugate gradients where its survivors, cubed, are more than so many times its inputs, squared:
beyond that they take less time than a factorisation. On one core, 512 rows of 1,024 inputs, half of them left, take as
long either way; of 4,608 inputs a third of the time."""


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
        inner = moments.inner[group]
        missing = moments.cross[group] - inner @ start[group].T
        ridge = damping * float(inner.diagonal().mean())
        if ridge <= 0:  # no input was ever anything but zero, or undamped
            ridge = torch.finfo(torch.float64).tiny
        solved[group] += _moves(inner, ridge, missing, mask[group], well=damping >= WELL).T
    before, after = moments.error(start), moments.error(solved)
    worse = ~(after <= before)
    solved = torch.where(worse[..., None], start, solved)
    energy = float(moments.energy.sum()) or 1.0
    return Solution(solved, float(before.sum()) / energy, float(torch.where(worse, before, after).sum()) / energy)


def _moves(inner: Tensor, ridge: float, missing: Tensor, mask: Tensor, *, well: bool) -> Tensor:
    """The columns that are zero where `mask`, (outputs, inputs), is not, and give `missing` where it is, (inputs,
    outputs), once multiplied by `inner` with `ridge` on its diagonal. Where that can't be solved they are zero.

    well: whether the matrix is conditioned well enough to be inverted as a whole, where a mask that leaves most inputs
    is solved by those that it removes, which are fewer; and to be solved by conjugate gradients, where masks leave many
    and differ from row to row.
    """
    moves, size = torch.zeros_like(missing), len(inner)
    whole = well and size <= WHOLE
    patterns, which = torch.unique(mask, dim=0, return_inverse=True)
    left = patterns.sum(1, dtype=torch.float64)
    most = whole & (size - left < 0.8 * left)
    saved = float((left[most].pow(3) - (size - left[most]).pow(3)).sum()) / 3
    factor, failed = _factor(inner, ridge) if saved > size**3 else (inner, True)
    if failed:
        most.fill_(False)
    rest = ~most
    if well and float(left[rest].pow(3).sum()) > STEP_WORTH * size**2 * int(rest[which].sum()):
        rows = rest[which].nonzero()[:, 0]
        moves[:, rows], done = _descended(inner, ridge, missing[:, rows], mask[rows].T)
        rest[which[rows[done]]] = False
        rest[which[rows[~done]]] = True
    for pattern in rest.nonzero()[:, 0]:
        members, columns = (which == pattern).nonzero()[:, 0], patterns[pattern].nonzero()[:, 0]
        moves[columns[:, None], members] = _solved(inner, ridge, columns, missing[columns[:, None], members])
    if most.any():
        rows, inverse = most[which].nonzero()[:, 0], torch.cholesky_inverse(factor)
        found = inverse @ (missing * mask.T)[:, rows]
        pulls = torch.zeros_like(found)  # on what is removed, so that it does not move
        for pattern in most.nonzero()[:, 0]:
            members, columns = (which[rows] == pattern).nonzero()[:, 0], (~patterns[pattern]).nonzero()[:, 0]
            pulls[columns[:, None], members] = _solved(inverse, 0.0, columns, found[columns[:, None], members])
        moves[:, rows] = (found - inverse @ pulls) * mask.T[:, rows]
    return moves


def _descended(inner: Tensor, ridge: float, missing: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What `_moves` returns, by conjugate gradients for all columns at once, in float32; and which of the columns are
    within TOLERANCE, by a check in float64.

    mask: (inputs, outputs), as `missing` is.
    """
    square, alive = inner.float(), mask.float()
    square.diagonal().add_(ridge)
    slope = missing.float() * alive
    enough, scale = TOLERANCE * slope.norm(dim=0), 1 / square.diagonal()[:, None]
    found, way = torch.zeros_like(slope), scale * slope
    steep = (slope * way).sum(0)
    for _ in range(MOST):
        if bool((slope.norm(dim=0) <= enough).all()):
            break
        curved = (square @ way) * alive
        stride = steep / (way * curved).sum(0).clamp_min(torch.finfo(torch.float32).tiny)
        found += stride * way
        slope -= stride * curved
        before, steep = steep, (scale * slope.square()).sum(0)
        way = scale * slope + steep / before.clamp_min(torch.finfo(torch.float32).tiny) * way
    moves = found.double()
    wanted = missing * mask
    apart = (wanted - (inner @ moves + ridge * moves) * mask).norm(dim=0)
    return moves, apart <= 2 * TOLERANCE * wanted.norm(dim=0)


def _solved(square: Tensor, ridge: float, some: Tensor, wanted: Tensor) -> Tensor:
    """What some rows and columns of a matrix make `wanted` of; zero where they are singular."""
    if not len(some):
        return wanted
    factor, failed = _factor(square[some[:, None], some], ridge)
    return torch.zeros_like(wanted) if failed else torch.cholesky_solve(wanted, factor)


def _factor(square: Tensor, ridge: float) -> tuple[Tensor, bool]:
    """The Cholesky factor of a matrix with `ridge` on its diagonal, and whether there is none."""
    damped = square.clone()
    damped.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return factor, bool(int(failed))
