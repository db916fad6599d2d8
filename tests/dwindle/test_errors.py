from __future__ import annotations

from dwindle.errors import one_line


def test_an_error_in_one_line() -> None:
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("a:\n\tb")) == "ValueError: a"
    assert one_line(ValueError("\n  a  \nb")) == "ValueError: a"


def test_the_root_cause_is_asked_for() -> None:
    error = RuntimeError("pages of text")
    error.__cause__ = KeyError("first")
    assert one_line(error) == "RuntimeError: pages of text"
    assert one_line(error, root_cause=True) == "KeyError: 'first'"
