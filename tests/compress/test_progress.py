from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from dwindle.compress.amc.search import Settings
from dwindle.compress.progress import PREPARING, LineWatcher, LiveWatcher, drawing
from dwindle.record import Round

ROUNDS = (
    Round(index=0, density=1.0, bytes=300_000, validation=90.0, loss=0.5, seconds=10.0),
    Round(index=1, density=0.8, bytes=240_000, validation=91.5, loss=0.4, seconds=10.0),
)
SETTINGS = Settings(episodes=4, warmup=2)
REWARDS = (0.2, 0.5, 0.3, 0.6)


def _console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def _shown(console: Console) -> str:
    """What was written, without the sequences that move the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def _search(seen: LineWatcher, clock: list[float]) -> None:
    judged = 0
    for rewards in [()] * (1 + SETTINGS.episodes) + [REWARDS[: n + 1] for n in range(SETTINGS.episodes)]:
        judged, clock[0] = judged + 1, clock[0] + 3.0
        seen.search(judged, rewards, SETTINGS)
        if isinstance(seen, LiveWatcher):
            seen.live.refresh()
    assert judged == SETTINGS.allocations


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("dwindle.compress.progress.time.monotonic", lambda: now[0])
    return now


def test_a_terminal_sees_what_is_done_before_the_first_step() -> None:
    console = _console(terminal=True)
    with LiveWatcher(console, "onnx") as seen:
        seen.note("onnx: written and compared before training")
        seen.live.refresh()
        assert PREPARING in _shown(console)
        seen.begin((), 2)
        before = len(_shown(console))
        seen.step(0, 1, 120, 0.7)
        seen.live.refresh()
    assert PREPARING not in _shown(console)[before:]


def test_a_terminal_sees_rounds_a_bar_and_the_time_left(clock: list[float]) -> None:
    console = _console(terminal=True)
    with LiveWatcher(console, "onnx") as seen:
        seen.begin((), 2)
        seen.finished(ROUNDS[0], 2)
        for step in (1, 2, 30, 60):
            clock[0] += 2.0
            seen.step(1, step, 120, 0.7)
        seen.live.refresh()
        seen.finished(ROUNDS[1], 2)
    shown = _shown(console)
    assert "round 1 of about 2" in shown
    # Six seconds since the round's first step for half of it, and another round as long as the dense one.
    assert "50%  loss 0.700  about 16 s left" in shown
    assert "1.2×" in shown
    assert "91.50 (+1.50)" in shown


def test_each_round_is_written_once_above_the_bar_so_that_a_low_terminal_scrolls(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=10, color_system=None)
    with LiveWatcher(console, "onnx") as seen:
        seen.begin((), 30)
        for index in range(30):
            seen.finished(replace(ROUNDS[1], index=index, validation=50.0 + index), 30)
            seen.live.refresh()
    rows = [line for line in _shown(console).splitlines() if "240 KB" in line]
    assert [float(re.findall(r"\d+\.\d\d(?= )", line + " ")[0]) for line in rows] == [50.0 + i for i in range(30)]


def test_a_run_that_is_resumed_shows_its_rounds_at_once() -> None:
    console = _console(terminal=True)
    with LiveWatcher(console, "onnx") as seen:
        seen.begin(ROUNDS, 2)
    assert "91.50 (+1.50)" in _shown(console)


def test_a_terminal_sees_how_far_a_search_is_at_every_moment(clock: list[float]) -> None:
    console = _console(terminal=True)
    with LiveWatcher(console, "onnx") as seen:
        seen.begin((), 2)
        seen.finished(ROUNDS[0], 2)
        _search(seen, clock)
    shown = _shown(console)
    assert re.search(r"random allocations, to compare with: 0 of 4(?!,)", shown)
    assert "random allocations, to compare with: 3 of 4, about 15 s left" in shown
    assert "episode 1 of 4, about 9 s left" in shown
    assert "episode 4 of 4, about 0 s left" in shown
    assert "0.600 ┤" in shown


def test_a_log_gets_a_line_where_there_is_news(clock: list[float]) -> None:
    console = _console(terminal=False)
    with drawing(console, "onnx") as seen:
        assert not isinstance(seen, LiveWatcher)
        seen.begin((), 2)
        seen.finished(ROUNDS[0], 2)
        _search(seen, clock)
        seen.finished(ROUNDS[1], 2)
    lines = _shown(console).splitlines()
    assert lines[0].startswith("round 0 of about 2: density 100.0%")
    assert lines[1:3] == [
        "AMC judges 4 random allocations first, to have something to compare with",
        "AMC: episode 4 of 4, best reward 0.600",
    ]
    assert lines[3].endswith("about 10 s left")


def test_a_notebook_is_drawn_in_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Console(force_jupyter=True)
    monkeypatch.setattr("dwindle.compress.progress.find_spec", lambda name: None)
    assert not isinstance(drawing(notebook, "onnx"), LiveWatcher)
    monkeypatch.setattr("dwindle.compress.progress.find_spec", lambda name: object())
    assert isinstance(drawing(notebook, "onnx"), LiveWatcher)


def test_options_are_called_as_the_caller_calls_them() -> None:
    for flags, named in (({}, "`max_drop`"), ({"max_drop": "--max-drop"}, "--max-drop")):
        console = _console(terminal=False)
        drawing(console, "onnx", flags).note("give `max_drop`")
        assert named in _shown(console)
