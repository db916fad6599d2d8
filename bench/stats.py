"""From samples to figures, each with what it takes to believe it."""

from __future__ import annotations

import math
import os
import statistics

import numpy as np

from dwindle.bench.measure import Samples, Surroundings
from dwindle.bench.result import Latency, Noise

Z95 = 1.959964
"""Two-sided 95% of the normal distribution."""
ESTIMATOR = "median over rounds of the ratio of thread-CPU medians; 95% bootstrap over processes and rounds"
QUIET_CPU_SHARE = 0.95
"""Below it, wall time is mostly a measure of who else wanted the CPU."""
QUIET_DRIFT = 0.05
QUIET_PRESSURE = 0.25
QUIET_SWITCHES = 500.0
"""Per second. An idle desktop's daemons cause some 100."""


def noise(samples: Samples, surroundings: Surroundings, cores: int | None = None) -> Noise:
    """Judges one file's samples; `cores` are this machine's unless given."""
    cores = cores or os.cpu_count() or 1
    wall_seconds = samples.wall.sum() / 1e9
    share = _cpu_share(samples)
    drift = float(np.median(samples.cpu) / samples.wall.min()) - 1
    switches = float(samples.switches / wall_seconds)
    pressure, load = surroundings.pressure, surroundings.load
    reasons = []
    if share < QUIET_CPU_SHARE:
        reasons.append(f"had the CPU for {share:.0%} of the time only")
    if drift > QUIET_DRIFT:
        reasons.append(f"the CPU's speed wavered: typically {drift:.0%} slower than at best")
    if switches > QUIET_SWITCHES:
        reasons.append(f"interrupted {switches:.0f} times a second")
    if pressure is not None and pressure > QUIET_PRESSURE:
        reasons.append(f"tasks waited for a CPU during {pressure:.0%} of the time")
    if load > cores:
        reasons.append(f"load average {load:.1f} on {cores} {'core' if cores == 1 else 'cores'}")
    return Noise(not reasons, tuple(reasons), share, drift, switches, pressure, load)


def milliseconds(samples: Samples) -> tuple[Latency, str | None]:
    """The latency figures, and why median and p95 of wall time aren't among them, if they aren't."""
    share = _cpu_share(samples)
    trusted = share >= QUIET_CPU_SHARE
    median, p95 = (float(v) / 1e6 for v in np.quantile(samples.wall, (0.5, 0.95)))
    latency = Latency(
        load=statistics.median(loaded.load_ms for loaded in samples.loaded),
        first=statistics.median(loaded.first_ms for loaded in samples.loaded),
        min=float(samples.wall.min()) / 1e6,
        median=median if trusted else None,
        p95=p95 if trusted else None,
        cpu_min=float(samples.cpu.min()) / 1e6,
        cpu_median=float(np.median(samples.cpu)) / 1e6,
        processes=samples.wall.shape[0],
        loads=samples.wall.shape[1],
        iterations=samples.wall.shape[2],
    )
    why = None if trusted else f"the thread had the CPU for {share:.0%} of the time only, so wall time tells of others"
    return latency, why


def paired_ratio(
    file: Samples, baseline: Samples, *, seed: int, resamples: int = 4000
) -> tuple[float, tuple[float, float]]:
    """How long `file` takes relative to `baseline` (both measured in the same rounds).

    The median over rounds of the ratio of the rounds' thread-CPU medians, and its 95% percentile interval
    from resampling processes, and rounds within each: rounds of one process are not independent.
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, §3.8, on hierarchical data.)
    """
    ratios = np.median(file.cpu, axis=2) / np.median(baseline.cpu, axis=2)
    processes, rounds = ratios.shape
    draw = np.random.default_rng(seed).integers
    outer = draw(0, processes, (resamples, processes, 1))
    inner = draw(0, rounds, (resamples, processes, rounds))
    low, high = np.quantile(np.median(ratios[outer, inner], axis=(1, 2)), (0.025, 0.975))
    return float(np.median(ratios)), (float(low), float(high))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion, as shares (Wilson 1927). `n` ≥ 1."""
    z2 = Z95**2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p of the exact test that either is as likely, given how many samples changed sides."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def _cpu_share(samples: Samples) -> float:
    return float(samples.cpu.sum() / samples.wall.sum())
