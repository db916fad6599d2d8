from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwindle.models.provenance import code_state


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "mine_to_trace.py"
    file.write_text("def net(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine_to_trace", raising=False)
    return file


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_code_outside_git_has_its_hash(mine: Path) -> None:
    before = code_state("mine_to_trace:net")
    assert before.startswith("sha256 ")
    assert "git" not in before
    mine.write_text("def net(): return 1\n")
    assert code_state("mine_to_trace:net") != before


def test_code_under_git_has_its_commit_and_whether_it_has_changed_since(mine: Path) -> None:
    git(mine.parent, "init", "-q")
    git(mine.parent, "add", mine.name)
    git(mine.parent, "commit", "-qm", "mine")
    (mine.parent / ".git/info/exclude").write_text("__pycache__\n")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=mine.parent, capture_output=True, text=True, check=True
    )
    assert code_state("mine_to_trace:net").endswith(f"git {commit.stdout.strip()}")
    mine.write_text("def net(): return 1\n")
    assert code_state("mine_to_trace:net").endswith(f"git {commit.stdout.strip()} with changes")
