"""Judgements on synthetic samples whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.measure import Samples, Surroundings
from dwindle.bench.process import Loaded
from dwindle.bench.stats import (
    BETWEEN_RUNS,
    accuracy_interval,
    estimator,
    mcnemar,
    milliseconds,
    noise,
    paired_ratio,
    wilson,
)

CALM = Surroundings(pressure=0.01, load=0.8)


def samples(
    cpu_ms: float = 2.0, share: float = 0.99, spread: float = 0.002, switches: int = 3, seed: int = 0
) -> Samples:
    draws = np.random.default_rng(seed).lognormal(0, spread, (6, 4, 30))
    cpu = cpu_ms * 1e6 * draws
    return Samples((Loaded("1", 5.0, 3.0, 1 << 20),) * 6, cpu / share, cpu, switches)


def test_a_calm_run_is_quiet() -> None:
    judged = noise(samples(), CALM, cores=2)
    assert judged.quiet
    assert judged.reasons == ()
    assert judged.cpu_over_wall == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("taken", "around", "reason"),
    [
        (samples(share=0.94), CALM, "had the CPU for 94% of the time only"),
        (samples(switches=100_000), CALM, "times a second"),
        (samples(), Surroundings(0.6, 0.8), "tasks waited for a CPU during 60% of the time"),
        (samples(), Surroundings(None, 2.6), "load average 2.6 on 2 cores"),
    ],
)
def test_each_disturbance_alone_makes_it_noisy_and_is_named(taken: Samples, around: Surroundings, reason: str) -> None:
    judged = noise(taken, around, cores=2)
    assert not judged.quiet
    assert len(judged.reasons) == 1
    assert reason in judged.reasons[0]


def test_a_cpu_that_runs_slower_for_most_of_the_time_is_noticed() -> None:
    taken = samples()
    assert taken.cpu is not None
    taken.cpu[1:] *= 1.1  # a neighbour in the same physical core: the thread still has "the CPU"
    taken.wall[1:] *= 1.1
    judged = noise(taken, CALM, cores=2)
    assert "speed wavered: typically" in judged.reasons[0]


def test_wall_median_and_p95_need_the_cpu() -> None:
    latency, missing = milliseconds(samples(share=0.96))
    assert missing == {}
    assert latency.median == pytest.approx(2.0 / 0.96, rel=0.01)
    assert latency.p95 is not None
    assert latency.median < latency.p95
    latency, missing = milliseconds(samples(share=0.5))
    assert latency.median is latency.p95 is None
    assert missing.keys() == {"latency.median", "latency.p95"}
    assert "50%" in missing["latency.p95"]
    assert latency.typical == latency.cpu_median
    assert latency.cpu_median == pytest.approx(2.0, rel=0.01)
    assert latency.min == pytest.approx(4.0, rel=0.02)
    assert (latency.load, latency.first) == (5.0, 3.0)
    assert (latency.processes, latency.loads, latency.iterations) == (6, 4, 30)


@pytest.mark.parametrize(("of_process", "of_load"), [(0.006, 0.006), (0.006, 0.002), (0.001, 0.01)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(of_process: float, of_load: float) -> None:
    """Each run, process and load has a speed of its own, and both files meet the same bursts."""
    rng, hits, widths, trials = np.random.default_rng(7), 0, [], 200
    for trial in range(trials):
        bursts = np.where(rng.random((6, 4, 1)) < 0.2, 1.3, 1.0)

        def draw(scale: float, bursts: np.ndarray = bursts) -> Samples:
            speed = (1 + rng.normal(0, of_process, (6, 1, 1))) * (1 + rng.normal(0, of_load, (6, 4, 1)))
            cpu = scale * bursts * speed * rng.lognormal(0, 0.01, (6, 4, 20))
            return Samples((), cpu, cpu, 0)

        of_run = 1 + rng.normal(0, BETWEEN_RUNS / 1.96)
        ratio, (low, high) = paired_ratio(draw(0.4 * of_run), draw(1.0), seed=trial, resamples=1000)
        assert low <= ratio <= high
        hits += low <= 0.4 <= high
        widths.append((high - low) / ratio)
    assert 0.89 <= hits / trials <= 0.995
    assert np.median(widths) < 0.05


def test_the_ratio_is_that_of_the_files_whatever_slows_both() -> None:
    base = samples(cpu_ms=2.0, seed=1)
    half = samples(cpu_ms=1.0, seed=2)
    slow = np.linspace(1, 3, 24).reshape(6, 4, 1)
    for one in (base, half):
        assert one.cpu is not None
        one.cpu[:] *= slow
    ratio, (low, high) = paired_ratio(half, base, seed=0)
    assert ratio == pytest.approx(0.5, rel=0.005)
    assert high - low == pytest.approx(2 * BETWEEN_RUNS * ratio, rel=0.1)
    assert paired_ratio(half, base, seed=0) == (ratio, (low, high))


def in_page(ms: float, seed: int, waited: float | None = 0.0, throttle: float = 1.0) -> Samples:
    """Without a clock of CPU time; every third inference was interrupted for as long as it took."""
    wall = samples(cpu_ms=ms, share=1, seed=seed).wall
    wall[:, :, ::3] *= 2
    return Samples((Loaded("1", 5.0, 3.0, None, throttle),) * 6, wall, None, 0, waited)


def test_of_wall_time_the_least_is_compared() -> None:
    base, half = in_page(2.0, 1), in_page(1.0, 2)
    half.wall[:, :, :25] *= 2  # most of the time, something else ran too
    ratio, _ = paired_ratio(half, base, seed=0)
    assert ratio == pytest.approx(0.5, rel=0.01)
    assert "least wall times" in estimator(half)


def test_under_a_throttle_the_median_is() -> None:
    base, half = in_page(2.0, 1, throttle=4), in_page(1.0, 2, throttle=4)
    half.wall[:, :, 0] /= 4  # what slipped through
    ratio, _ = paired_ratio(half, base, seed=0)
    assert ratio == pytest.approx(0.5, rel=0.01)
    assert "wall medians" in estimator(half)
    assert noise(half, CALM, cores=2).drift is None


@pytest.mark.parametrize(("waited", "quiet", "share"), [(0.0, True, 1.0), (0.3, False, 0.7), (None, True, None)])
def test_without_a_cpu_clock_the_kernel_says_how_long_it_waited(
    waited: float | None, quiet: bool, share: float | None
) -> None:
    wall = samples(share=1).wall
    taken = Samples((Loaded("1", 5.0, 3.0, None),), wall, None, 0, None if waited is None else waited * wall.sum())
    judged = noise(taken, CALM, cores=2)
    assert judged.quiet == quiet
    assert judged.cpu_over_wall == (share if share is None else pytest.approx(share))
    latency, missing = milliseconds(taken)
    assert latency.cpu_median is latency.cpu_min is None
    assert latency.typical == latency.median
    assert (latency.median is not None) == quiet
    assert "a page has no clock" in missing["latency.cpu_median"]
    assert "several threads" in milliseconds(taken, threads=2)[1]["latency.cpu_median"]


def test_wilson_gives_the_published_values() -> None:
    # Newcombe 1998, table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_within_one(case: tuple[int, int]) -> None:
    low, high = wilson(*case)
    assert 0 <= low <= case[0] / case[1] + 1e-12
    assert case[0] / case[1] - 1e-12 <= high <= 1
    mirrored = wilson(case[1] - case[0], case[1])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_an_accuracy_has_an_interval_where_it_is_a_share_of_the_samples() -> None:
    low, high = accuracy_interval(100 * 81 / 263, 263) or (0, 0)
    assert (low, high) == pytest.approx((25.53, 36.62), abs=5e-3)
    assert accuracy_interval(30.9, 263) is None  # 81 of them are 30.80
    assert accuracy_interval(-0.5, 263) is None
    assert accuracy_interval(100.4, 263) is None
    assert accuracy_interval(50.0, 0) is None


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (3, 3, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (1, 4, 0.375)])
def test_mcnemar_is_the_binomial_test_of_who_changed_sides(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p)
    assert mcnemar(won, lost) == pytest.approx(p)
