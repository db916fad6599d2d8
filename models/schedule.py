"""The learning rate over a schedule, as a factor of its peak.

A pure function of the fraction done, so that rewinding is nothing but calling it with an earlier fraction.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from dwindle.errors import UsageError
from dwindle.registry import unknown_name

Schedule = Literal["step", "imagenet", "cosine"]

DROPS = {"step": (91 / 182, 136 / 182), "imagenet": (30 / 90, 60 / 90, 80 / 90)}
"""Where the rate falls to a tenth: the rewinding paper's epochs (Renda et al. 2020, table 1)."""


def factor(schedule: Schedule, progress: float, warmup: float = 0.0) -> float:
    """The factor in [0, 1] at `progress`, the fraction of the schedule done, in [0, 1].

    - `step`, `imagenet`: 1, then ÷10 at each of DROPS, as the rewinding paper trains on CIFAR-10 and on
      ImageNet. Warmup multiplies it and moves nothing; theirs on ImageNet is 5 of the 90 epochs.
    - `cosine`: from 1 where warmup ends to 0 at the end, half a period (Loshchilov & Hutter 2017, eq. 5).

    Warmup climbs linearly from 0 over that fraction of the schedule.
    """
    rise = progress / warmup if progress < warmup else 1.0
    if schedule == "cosine":
        return rise if rise < 1 else (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    return rise * 10.0 ** -sum(progress >= drop for drop in DROPS[schedule])


def check(schedule: str, warmup: float) -> None:
    """Raises UsageError for a schedule that doesn't exist or a warmup outside [0, 1)."""
    if schedule not in get_args(Schedule):
        raise unknown_name("schedule", schedule, list(get_args(Schedule)), option="schedule")
    if not 0 <= warmup < 1:
        raise UsageError(
            f"`warmup` is {warmup}: give a fraction of the schedule from 0 up to, not including, 1",
            code="out-of-range",
            option="warmup",
        )
