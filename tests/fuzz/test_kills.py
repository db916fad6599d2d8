"""Runs of every kind, killed at changes of their folder and at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import kills

KILLS = 4
"""Of each kind of run: 52 in all."""


@pytest.mark.slow
@pytest.mark.parametrize("name", kills.RUNS)
def test_a_killed_run_ends_as_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    counted = kills.killed(tmp_path, name, KILLS)
    assert counted.faults == []
    assert counted.kills == KILLS


def test_a_difference_is_named() -> None:
    assert kills.differences({"a": 1, "pinned": []}, {"a": 1}) == ["pinned is None instead of []"]
