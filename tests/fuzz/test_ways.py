"""No line of code runs because a checkpoint or an exported file names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dwindle.cli import main
from dwindle.export import exporter, side_by_side
from tests.fuzz import ways


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


@pytest.fixture(params=["here", pytest.param("apart", marks=pytest.mark.slow)])
def process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports in the tests' own process, and in another as outside of tests."""
    if request.param == "apart":
        monkeypatch.setattr(exporter, "side_by_side", side_by_side)


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("way", ways.CHECKPOINTS)
def test_a_checkpoint_that_names_code_is_refused(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    exits = ways.CHECKPOINTS[way]()
    assert not ways.ran()
    assert set(exits) == {2}
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("no target is given")]
    assert len(said) == len(exits), "a sentence of each"


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("way", [ways.pickled_weights, ways.script_in_the_report])
def test_nothing_else_of_a_checkpoint_runs(way: Callable[[], list[int]]) -> None:
    exits = way()
    assert not ways.ran()
    assert set(exits) <= {0, 1, 2}


@pytest.mark.slow
def test_a_module_beside_the_checkpoint_is_not_imported() -> None:
    assert ways.modules_beside_the_checkpoint() == [0]
    assert not ways.ran()


@pytest.mark.parametrize("way", ways.PROGRAMS)
def test_a_program_with_code_in_it_is_refused(way: str) -> None:
    assert ways.reads_program(way) == 2
    assert not ways.ran()
    assert way in ways.STOPPED or ways.works_unchecked(way), "or else this test would prove nothing"


TASK = """
import torch
class Task:
    metric = "none"
    def fit(self, model, *, start, on_step): pass
    def evaluate(self, model, split): return 0.0
    def example_inputs(self): return (torch.zeros(1, 1, 8, 8),)
def make(): return Task()
"""


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("words", [["--task", "named:make"], ["--trust"]])
def test_code_that_the_caller_names_runs(words: list[str]) -> None:
    path = ways._sent(lambda origin: origin.update(task={"task": "named:make"}))
    Path("named.py").write_text(TASK)
    assert main(["export", str(path)]) == 2
    assert main(["export", str(path), *words]) == 0
