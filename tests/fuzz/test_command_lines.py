from functools import cache
from pathlib import Path

import pytest

from dwindle.grammar import Grammar
from tests.fuzz.command_lines import LEAST, refused, wrong_lines


def test_each_wrong_line_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Two thousand lines are parsed, and none changes the grammar: it is made once.
    monkeypatch.setattr("dwindle.cli.Grammar", cache(Grammar))
    lines = list(wrong_lines())
    assert len(lines) >= LEAST
    assert [amiss for line in lines if (amiss := refused(line))] == []
    assert list(tmp_path.iterdir()) == []
