from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from dwindle.compress.watcher import Watcher, tracked
from dwindle.errors import UsageError
from dwindle.record import Round

ROUNDS = [Round(i, density=1 - 0.2 * i, bytes=None, validation=90.0 + i, loss=0.1, seconds=1.0) for i in range(3)]


@dataclass
class Kept:
    """Remembers; fails on call number `fails_at`."""

    fails_at: int = -1
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    ended: bool = False

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        if self.fails_at == 0:
            raise OSError("no route to host")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(figures)))
        if len(self.logged) == self.fails_at:
            raise OSError("no route to host")

    def end(self) -> None:
        self.ended = True


class Heard(Watcher):
    def __init__(self) -> None:
        self.steps, self.notes, self.rounds = 0, list[str](), list[Round]()

    def begin(self, history: tuple[Round, ...], rounds: int) -> None:
        self.rounds += history

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        self.steps += 1

    def finished(self, record: Round, rounds: int) -> None:
        self.rounds.append(record)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_a_plain_watcher_logs_rounds_and_notes(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher()
    with caplog.at_level("INFO", logger="dwindle"):
        watcher.finished(replace(ROUNDS[1], bytes=1234), 2)
        watcher.note("100% of it")
    first, second = (record.getMessage() for record in caplog.records)
    assert "80.0%" in first
    assert "1,234" in first
    assert second == "100% of it"


def test_figures_lie_along_rounds_and_a_resumed_run_has_those_before() -> None:
    kept, heard = Kept(), Heard()
    with tracked(heard, [kept], "net", {}) as watching:
        watching.begin(tuple(ROUNDS[:2]), 2)
        for done in range(1, 401):
            watching.step(2, done, 400, 1 / done)
        watching.finished(ROUNDS[2], 2)
        watching.result({"test": 91.0})
        assert not kept.ended
    assert kept.ended
    assert heard.rounds == ROUNDS
    assert heard.steps == 400
    ends = [(step, figures["round/validation"]) for step, figures in kept.logged if "round/validation" in figures]
    assert ends == [(1000, 90.0), (2000, 91.0), (3000, 92.0)]
    losses = [step for step, figures in kept.logged if "loss" in figures]
    assert 99 <= len(losses) <= 101, "a hundred per round, however many steps it has"
    assert losses == sorted(losses)
    assert losses[0] >= 2000
    assert losses[-1] == 3000
    assert kept.logged[-1] == (3000, {"test": 91.0})
    assert "round/bytes" not in kept.logged[0][1], "what is not known is not logged"


def test_a_task_without_a_known_length_logs_its_rounds_alone() -> None:
    kept = Kept()
    with tracked(Watcher(), [kept], "net", {}) as watching:
        watching.step(0, 5, None, 0.3)
        watching.finished(ROUNDS[0], 2)
    assert [step for step, _ in kept.logged] == [1000]


def test_a_tracker_that_fails_is_noted_once_and_training_goes_on() -> None:
    failing, other, heard = Kept(fails_at=1), Kept(), Heard()
    with tracked(heard, [failing, other], "net", {}) as watching:
        for record in ROUNDS:
            watching.finished(record, 2)
    assert len(failing.logged) == 1
    assert len(other.logged) == 3
    assert heard.notes == ["Kept failed (OSError: no route to host) and receives no more figures"]


def test_a_tracker_that_cannot_begin_stops_the_run_before_it_trains() -> None:
    with (
        pytest.raises(UsageError, match=r"\(OSError: no route to host\)") as raised,
        tracked(Watcher(), [Kept(fails_at=0)], "net", {}),
    ):
        raise AssertionError("never entered")
    assert (raised.value.code, raised.value.option, raised.value.name) == ("tracker-failed", "track", "Kept")
