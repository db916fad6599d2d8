import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from dwindle.bench import frame, plot
from dwindle.bench.result import Bench, Machine
from dwindle.checkpoint import Checkpoint
from dwindle.errors import RuntimeUnavailable
from tests.bench.views.test_table import COMPRESSED, DENSE

mpl.use("agg")
BENCH = Bench((DENSE, COMPRESSED), Machine("CPU", 2, "Linux"), 0, "now", "0.1")


def test_rounds_as_a_frame(checkpoint: Checkpoint) -> None:
    rounds = frame(checkpoint)
    assert list(rounds.index) == [one.index for one in checkpoint.history]
    assert list(rounds["validation"]) == [one.validation for one in checkpoint.history]


def test_files_as_a_frame() -> None:
    rows = frame(BENCH).set_index("role")
    assert rows.loc["compressed", "bytes"] == COMPRESSED.artifact.bytes
    assert rows.loc["compressed", "smaller"] == pytest.approx(331 / 28.9)
    assert rows.loc["compressed", "lost"] == pytest.approx(0.7)
    assert rows["instructions"].isna().all()


def test_both_as_a_figure(checkpoint: Checkpoint, tmp_path: Path) -> None:
    drawn = plot(checkpoint)
    (line,) = drawn.get_lines()
    assert list(line.get_ydata()) == [one.validation for one in checkpoint.history]
    assert plot(BENCH, drawn) is drawn
    assert len(drawn.get_lines()) == 3
    drawn.figure.savefig(tmp_path / "drawn.png")
    assert not plot(checkpoint).collections
    judged = replace(checkpoint, history=tuple(replace(one, samples=1000) for one in checkpoint.history))
    (band,) = plot(judged).collections
    assert len(band.get_paths()) == 1


def test_without_the_library_its_extra_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RuntimeUnavailable) as refused:
        frame(checkpoint)
    assert (refused.value.code, refused.value.name) == ("not-installed", "pandas")
