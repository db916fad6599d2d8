"""The fuzzers of this folder, each with the number of cases that CI has time for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import arrange, belongings, documents, races


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in (500, 1000, 1500))])
def test_damaged_and_hostile_documents_are_a_sentence(first: int) -> None:
    outcome = documents.fuzzed(500, first)
    assert outcome.cases == 500
    assert not outcome.faults, "\n\n".join(outcome.faults[:5])
    assert outcome.exits[1] > 50, "most of them are refused, or else nothing was mutated"


def test_two_runs_that_start_at_one_instant_never_share_an_output(tmp_path: Path) -> None:
    assert races.raced(tmp_path, 30) == races.Raced(trials=30)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return arrange.finished(folder / "finished").path, arrange.unfinished(folder / "unfinished").path


@pytest.mark.parametrize("name", belongings.ARRANGEMENTS)
def test_no_file_of_the_users_is_lost(tmp_path: Path, checkpoints: tuple[Path, Path], name: str) -> None:
    assert belongings.lost(tmp_path, name, *checkpoints) == []
