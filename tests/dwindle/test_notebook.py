from __future__ import annotations

from dwindle.notebook import table


def test_what_a_cell_has_of_markup_is_shown_as_it_is() -> None:
    shown = table("a <b>", [("x", 1), ("<script>", "\x1b[31m")], ("name", "value"))
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert shown.count("<tr>") == 3
    assert "<caption>a &lt;b&gt;</caption>" in shown
