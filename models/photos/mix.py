"""Samples mixed within a batch: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dwindle.models.data import Subset


@dataclass(frozen=True)
class Mix:
    """Mixes each sample with another of its batch; with both alphas, half of the batches by mixup, half by cutmix."""

    mixup: float
    """Of the Beta distribution from which the share of the other sample is drawn; 0: no mixup."""
    cutmix: float
    classes: int

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def mixed(self, batch: Subset, seed: int) -> Subset:
        """The batch as it follows from a seed: images float32, labels a share per class, (N, classes)."""
        from torchvision.transforms import v2

        kinds: list[Any] = []
        if self.mixup:
            kinds.append(v2.MixUp(alpha=self.mixup, num_classes=self.classes))
        if self.cutmix:
            kinds.append(v2.CutMix(alpha=self.cutmix, num_classes=self.classes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Subset(*v2.RandomChoice(kinds)(batch.images.float(), batch.labels))
