"""Runs that were killed: the table, and that a study goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studies import journal
from studies.resume import run


def row(killed: bool = True, equal: bool = True) -> dict[str, Any]:
    return {"run": "LightningTask", "killed": killed, "after_s": 9.0, "saved_by_then": ["partial"], "bit_equal": equal}


def test_the_table_counts_kills_and_what_was_equal_after_them() -> None:
    line = run.table([row(), row(equal=False), row(killed=False)]).splitlines()[-1]
    assert line == "| LightningTask | 2 | 2 | 1 |"


def test_rows_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments: list[float] = []

    def trial(options: str, out: Path, whole: Path, after: float) -> dict[str, Any]:
        moments.append(after)
        return {name: value for name, value in row().items() if name != "run"}

    monkeypatch.setattr(run, "undisturbed", lambda options, out: 10.0)
    monkeypatch.setattr(run, "trial", trial)
    at_once, in_parts = tmp_path / "at_once.jsonl", tmp_path / "in_parts.jsonl"
    run.go_on("lightning", 3, at_once)
    for kills in (1, 3, 3):
        run.go_on("lightning", kills, in_parts)
    assert moments[:3] == moments[3:]
    assert journal.read(at_once) == journal.read(in_parts)
