"""N:M pruning: of every M neighbours along the input channels, N survive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dwindle.compress.layers import Layers
from dwindle.compress.masks import density, mask_applier
from dwindle.compress.network import Network
from dwindle.compress.scores import Score, magnitude
from dwindle.errors import UsageError
from dwindle.export.zeros import Kind

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NofM:
    """The N highest-scoring of each M neighbours along the input channels survive.

    Along the input channels, since batch-norm folding scales whole output channels and so keeps the
    pattern. A layer whose input width is no multiple of M (a stem, a depthwise convolution) stays dense
    and does not count. The share goes down in steps of 1/M: each round one more of the M goes, until N.
    """

    n: int = 2
    m: int = 4
    score: Score = magnitude
    layers: Layers = field(default_factory=Layers)
    kind: Kind = field(default="n:m", init=False)
    rows: int = field(default=1, init=False)

    @property
    def floor(self) -> float:
        return self.n / self.m

    def share(self, network: Network) -> float:
        return density(network.masks) if network.masks else 1.0

    def shrink(self, network: Network, share: float) -> None:
        """Prunes in place to the largest n:M with n/M ≤ share, but no further than N:M."""
        every = self.layers.of(network.model, network.kernels)
        weights = {name: weight for name, weight in every.items() if weight.shape[1] % self.m == 0}
        if not weights:
            raise UsageError(
                f"no layer has an input width that is a multiple of {self.m}, which the granularity "
                f"{self.n}:{self.m} needs: use another `granularity`",
                code="nothing-to-prune",
                option="granularity",
            )
        kept = max(self.n, int(share * self.m + 1e-6))
        scores = self.score(weights)
        network.masks = {name: self._mask(scores[name], network.masks.get(name), kept) for name in weights}
        mask_applier(network.model, network.masks)()

    def _mask(self, score: Tensor, before: Tensor | None, kept: int) -> Tensor:
        if before is not None:
            score = score.masked_fill(~before, -1)
        groups = score.movedim(1, -1).unflatten(-1, (-1, self.m))
        best = groups.argsort(dim=-1, descending=True, stable=True)[..., :kept]
        mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
        return mask.flatten(-2).movedim(-1, 1).contiguous()
