"""From samples to figures, each with what it takes to believe it."""

from __future__ import annotations

import math
import os
import statistics

import numpy as np

from dwindle.bench.measure import Samples, Surroundings
from dwindle.bench.result import Latency, Noise

BETWEEN_RUNS = 0.02
"""The share by which runs differ (95%) beyond what each of them can see, on the machine of
`studies/latency/repeats.md`: the times of one run agree, and the next run finds memory or clock in another state.
Without it intervals held the truth in 23 of 40 repeats there, with it in 29."""
_ESTIMATOR = "median over rounds of the ratio of {}; 95%: bootstrap over processes and rounds, and ±2% between runs"
_NO_CPU_CLOCK = "a page has no clock of its thread's CPU time: wall time counts instead"
_MANY_THREADS = "of several threads, none's CPU time is that of an inference: wall time counts instead"
_ACCELERATED = "the thread waits while the {} computes: wall time counts instead"
QUIET_CPU_SHARE = 0.95
"""The least share of its time that a thread must have had the CPU: below, wall time measures who else wanted it."""
QUIET_DRIFT = 0.05
QUIET_PRESSURE = 0.25
QUIET_SWITCHES = 500.0
"""The most involuntary context switches per second. An idle desktop's daemons cause some 100."""


def noise(samples: Samples, surroundings: Surroundings, cores: int | None = None) -> Noise:
    """Judges how noisy one file's samples are; `cores` are this machine's unless given."""
    cores = cores or os.cpu_count() or 1
    wall_seconds = samples.wall.sum() / 1e9
    share = _cpu_share(samples)
    # A throttle makes it waver on purpose.
    drift = None if _throttled(samples) else float(np.median(samples.own) / samples.wall.min()) - 1
    switches = float(samples.switches / wall_seconds)
    pressure, load = surroundings.pressure, surroundings.load
    reasons = []
    if share is not None and share < QUIET_CPU_SHARE:
        reasons.append(f"had the CPU for {share:.0%} of the time only")
    if drift is not None and drift > QUIET_DRIFT:
        reasons.append(f"the CPU's speed wavered: typically {drift:.0%} slower than at best")
    if switches > QUIET_SWITCHES:
        reasons.append(f"interrupted {switches:.0f} times a second")
    if pressure is not None and pressure > QUIET_PRESSURE:
        reasons.append(f"tasks waited for a CPU during {pressure:.0%} of the time")
    if load > cores:
        reasons.append(f"load average {load:.1f} on {cores} {'core' if cores == 1 else 'cores'}")
    return Noise(not reasons, tuple(reasons), share, drift, switches, pressure, load)


def milliseconds(samples: Samples, *, threads: int = 1, seed: int = 0) -> tuple[Latency, dict[str, str]]:
    """The latency figures, and why some aren't among them, by their names in a row's reasons."""
    share, cpu = _cpu_share(samples), samples.cpu
    trusted = share is None or share >= QUIET_CPU_SHARE
    median, p95 = (float(v) / 1e6 for v in np.quantile(samples.wall, (0.5, 0.95)))
    latency = Latency(
        load=statistics.median(loaded.load_ms for loaded in samples.loaded),
        first=(max if samples.loaded[0].compiles else statistics.median)(one.first_ms for one in samples.loaded),
        min=float(samples.wall.min()) / 1e6,
        median=median if trusted else None,
        p95=p95 if trusted else None,
        cpu_min=None if cpu is None else float(cpu.min()) / 1e6,
        cpu_median=None if cpu is None else float(np.median(cpu)) / 1e6,
        processes=samples.wall.shape[0],
        loads=samples.wall.shape[1],
        iterations=samples.wall.shape[2],
        ci95=_interval(np.median(samples.own, axis=2) / 1e6, seed) if cpu is not None or trusted else None,
    )
    missing = {}
    if not trusted:
        why = f"the thread had the CPU for {share:.0%} of the time only, so wall time tells of others"
        missing = {"latency.median": why, "latency.p95": why}
    if cpu is None:
        accelerator = samples.loaded[0].accelerator
        why = _ACCELERATED.format(accelerator) if accelerator else _NO_CPU_CLOCK if threads == 1 else _MANY_THREADS
        missing |= {"latency.cpu_median": why, "latency.cpu_min": why}
    return latency, missing


def paired_ratio(
    file: Samples, baseline: Samples, *, seed: int, resamples: int = 4000
) -> tuple[float, tuple[float, float]]:
    """How long `file` takes relative to `baseline` (both measured in the same rounds).

    The median over rounds of the ratio of what `estimator` says of each, and its 95% interval: the percentiles
    from resampling processes, and rounds within each, as rounds of one process are not independent
    (Davison & Hinkley 1997, Bootstrap Methods and their Application, §3.8, on hierarchical data), and BETWEEN_RUNS,
    which no run can find out of itself, each side as the root of the sum of squares (JCGM 100:2008, §5.1.2).
    """
    ratios = _typical(file) / _typical(baseline)
    return float(np.median(ratios)), _interval(ratios, seed, resamples)


def _interval(figures: np.ndarray, seed: int, resamples: int = 4000) -> tuple[float, float]:
    """The 95% interval of the median of figures, shape (processes, rounds)."""
    processes, rounds = figures.shape
    draw = np.random.default_rng(seed).integers
    outer = draw(0, processes, (resamples, processes, 1))
    inner = draw(0, rounds, (resamples, processes, rounds))
    low, high = np.quantile(np.median(figures[outer, inner], axis=(1, 2)), (0.025, 0.975))
    median = float(np.median(figures))
    apart = BETWEEN_RUNS * median
    return median - math.hypot(median - low, apart), median + math.hypot(high - median, apart)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion (Wilson 1927), as shares between 0 and 1. `n` is 1 or more."""
    share, z2 = successes / n, statistics.NormalDist().inv_cdf(0.975) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At either end the bound is the share itself, which rounding would miss.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def accuracy_interval(points: float, samples: int) -> tuple[float, float] | None:
    """The 95% interval of an accuracy, in points, as `wilson` has it.

    points: the percentage of `samples` that is right. Returns None where that is no whole number of them: then the
    figure is another metric.
    """
    right = round(points / 100 * samples)
    if not samples or not 0 <= right <= samples or abs(100 * right / samples - points) > 1e-3:
        return None
    low, high = wilson(right, samples)
    return 100 * low, 100 * high


def mcnemar(lost: int, won: int) -> float:
    """Two-sided p of McNemar's exact test, given how many samples changed sides each way."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def estimator(samples: Samples) -> str:
    """How `paired_ratio` comes by its figure from such samples, in words."""
    if samples.cpu is not None:
        return _ESTIMATOR.format("thread-CPU medians")
    return _ESTIMATOR.format("wall medians" if _throttled(samples) else "least wall times")


def _typical(samples: Samples) -> np.ndarray:
    """Each round's typical time, shape (processes, loads).

    It is the median of thread-CPU time, from which what other processes took is absent. Of wall time it is the least,
    except under a throttle, whose interruptions the least time would have missed: then it is the median.
    """
    if samples.cpu is None and not _throttled(samples):
        return np.asarray(samples.wall.min(axis=2))
    return np.asarray(np.median(samples.own, axis=2))


def _throttled(samples: Samples) -> bool:
    return any(loaded.throttle > 1 for loaded in samples.loaded)


def _cpu_share(samples: Samples) -> float | None:
    """The share of its time in which the thread had the CPU."""
    if samples.cpu is not None:
        return float(samples.cpu.sum() / samples.wall.sum())
    if samples.waited is None:
        return None
    return max(0.0, 1 - samples.waited / float(samples.wall.sum()))
