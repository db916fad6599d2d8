"""Differences between two ways, paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t


def half_width(sample: Sequence[float]) -> float:
    """Of Student's 95% interval of the mean of two or more values."""
    return float(t.ppf(0.975, len(sample) - 1)) * statistics.stdev(sample) / math.sqrt(len(sample))


def gain(sample: Sequence[float]) -> str:
    """The mean of differences, with its 95% interval where there are two or more: `+0.25 ± 0.10`."""
    around = f" ± {half_width(sample):.2f}" if len(sample) > 1 else ""
    return f"{statistics.mean(sample):+.2f}{around}"
