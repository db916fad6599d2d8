from __future__ import annotations

from dwindle.errors import one_line


def test_one_line() -> None:
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("a:\n\tb")) == "ValueError: a"
