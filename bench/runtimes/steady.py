"""The mean of what a profiler says of one operator over many inferences."""

from __future__ import annotations

import math


def steady_mean(times: list[float]) -> float:
    """The mean without the first time and without the slowest twentieth of the rest, of two times or more.

    The first pays for what is done once, others interrupted the slowest, and a median would show the whole
    microseconds of the profilers' clocks.
    """
    ordered = sorted(times[1:])
    kept = ordered[: max(1, len(ordered) - math.ceil(len(ordered) / 20))]
    return sum(kept) / len(kept)
