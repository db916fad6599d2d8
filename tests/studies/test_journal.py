from __future__ import annotations

from pathlib import Path

from studies import journal


def test_what_is_added_comes_back_in_its_order_and_before_it_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    assert journal.read(path) == []
    rows = [{"key": "a", "history": [[1.0, 90.5]]}, {"key": "b×"}]
    for row in rows:
        journal.add(path, row)
    assert journal.read(path) == rows
    assert path.read_text().count("\n") == 2
