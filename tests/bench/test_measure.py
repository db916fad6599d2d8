"""The order and number of slices, on workers that play a script instead of a clock."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from dwindle.bench import measure as module
from dwindle.bench.measure import FEWEST_ROUNDS, TURNS, measure, warm_up
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


def scripted(*arguments: Any, **named: Any) -> Worker:
    return cast(Worker, Scripted(*arguments, **named))


def test_every_round_loads_anew_and_gives_every_file_its_turns() -> None:
    log: list[str] = []
    workers = {name: scripted(lambda call: 1e-3, log, name) for name in "ab"}
    samples, _ = measure(workers, [], seed=0, rounds=8)
    per_slice = round(module.SLICE_SECONDS / 1e-3)
    for name in "ab":
        assert samples[name].wall.shape == samples[name].cpu.shape == (8, TURNS * per_slice)
        assert samples[name].switches == 8 * TURNS
        assert log.count(f"load {name}") == 1 + 8
    turns = [line for line in log[log.index("load a", 2) :] if line.startswith("time")]
    order = "".join(line[-1] for line in turns)
    assert "aa" in order
    assert "bb" in order  # the order varies


def test_the_seed_fixes_the_order() -> None:
    def order(seed: int) -> list[str]:
        log: list[str] = []
        measure({name: scripted(lambda call: 1e-3, log, name) for name in "abc"}, [], seed=seed, rounds=6)
        return log

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_slow_files_get_fewer_rounds() -> None:
    samples, _ = measure({"slow": scripted(lambda call: 5.0)}, [], seed=0, rounds=24)
    assert samples["slow"].wall.shape == (FEWEST_ROUNDS, TURNS)


def test_warm_up_goes_on_until_it_is_stable() -> None:
    cooling = Scripted(lambda call: 1e-3 * (1 + 1 / (1 + call) ** 2))
    pace = warm_up(cast(Worker, cooling))
    assert 4 < cooling.calls < 30
    assert pace == pytest.approx(1e-3, rel=0.03)


def test_warm_up_gives_up_on_what_never_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP_SECONDS", 0.05)
    assert warm_up(scripted(lambda call: 1e-3 * (1 + call % 2))) > 0


def test_a_death_is_passed_on() -> None:
    def dies(call: int) -> float:
        raise WorkerFailed("gone", None)  # type: ignore[arg-type]

    with pytest.raises(WorkerFailed, match="gone"):
        measure({"a": scripted(dies)}, [], seed=0)
