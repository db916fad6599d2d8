"""The order and number of slices, on workers that play a script instead of a clock."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from dwindle.bench import measure as module
from dwindle.bench.measure import FEWEST, LOADS, PROCESSES, TURNS, measure, warm_up
from dwindle.bench.process import Loaded, Slice, Worker, WorkerFailed


class Scripted:
    """A worker whose inference takes what `pace(call)` says, in seconds."""

    def __init__(self, pace: Callable[[int], float], log: list[str] | None = None, name: str = "") -> None:
        self.pace, self.log, self.name = pace, [] if log is None else log, name
        self.calls = 0

    def load(self, sample: list[np.ndarray]) -> Loaded:
        self.log.append(f"load {self.name}")
        return Loaded("1", 1.0, 1.0, None)

    def time(self, iterations: int) -> Slice:
        self.log.append(f"time {self.name}")
        taken = np.full(iterations, round(self.pace(self.calls) * 1e9))
        self.calls += 1
        return Slice(taken, taken, 1)

    def __enter__(self) -> "Scripted":
        self.log.append(f"start {self.name}")
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append(f"end {self.name}")


def scripted(*arguments: Any, **named: Any) -> Callable[[], Worker]:
    return lambda: cast(Worker, Scripted(*arguments, **named))


def test_every_round_loads_anew_and_gives_every_file_its_turns() -> None:
    log: list[str] = []
    files = {name: scripted(lambda call: 1e-3, log, name) for name in "ab"}
    samples, _ = measure(files, [], seed=0)
    per_slice = round(module.SLICE_SECONDS / 1e-3)
    for name in "ab":
        assert samples[name].wall.shape == samples[name].cpu.shape == (PROCESSES, LOADS, TURNS * per_slice)
        assert samples[name].switches == PROCESSES * LOADS * TURNS
        assert len(samples[name].loaded) == PROCESSES
        assert log.count(f"start {name}") == log.count(f"end {name}") == PROCESSES
        assert log.count(f"load {name}") == PROCESSES * (1 + LOADS)
    order = "".join(line[-1] for line in log if line.startswith("time"))
    assert "aba" in order
    assert "aab" in order  # it varies


def test_the_seed_fixes_the_order() -> None:
    def order(seed: int) -> list[str]:
        log: list[str] = []
        measure({name: scripted(lambda call: 1e-3, log, name) for name in "abc"}, [], seed=seed)
        return log

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_slow_files_get_fewer_rounds() -> None:
    samples, _ = measure({"slow": scripted(lambda call: 5.0)}, [], seed=0)
    assert samples["slow"].wall.shape == (PROCESSES, 1, TURNS)


def test_files_that_are_slow_to_load_get_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "load", lambda self, sample: Loaded("1", 1000.0, 3000.0, None))
    samples, _ = measure({"compiled": scripted(lambda call: 1e-3)}, [], seed=0)
    assert samples["compiled"].wall.shape[:2] == (PROCESSES, 2)


def test_files_that_are_slow_to_start_get_fewer_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARTING_SECONDS", 0.0)
    samples, _ = measure({"imports": scripted(lambda call: 1e-3)}, [], seed=0)
    assert samples["imports"].wall.shape[:2] == (FEWEST, LOADS)
    assert len(samples["imports"].loaded) == FEWEST


def test_warm_up_goes_on_until_it_is_stable() -> None:
    cooling = Scripted(lambda call: 1e-3 * (1 + 1 / (1 + call) ** 2))
    pace = warm_up(cast(Worker, cooling))
    assert 4 < cooling.calls < 30
    assert pace == pytest.approx(1e-3, rel=0.03)


def test_warm_up_gives_up_on_what_never_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP_SECONDS", 0.05)
    assert warm_up(cast(Worker, Scripted(lambda call: 1e-3 * (1 + call % 2)))) > 0


def test_a_death_is_passed_on() -> None:
    def dies(call: int) -> float:
        raise WorkerFailed("gone", None)  # type: ignore[arg-type]

    with pytest.raises(WorkerFailed, match="gone"):
        measure({"a": scripted(dies)}, [], seed=0)
