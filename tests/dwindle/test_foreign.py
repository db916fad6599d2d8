"""Names that hold what a terminal, XML or Markdown would obey."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from dwindle import foreign
from dwindle.bench.comparison import Change, Diff
from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.diff_table import diff_table
from dwindle.bench.views.junit import write_junit
from dwindle.bench.views.markdown import markdown
from dwindle.bench.views.table import gate_table
from dwindle.layers import Layer
from dwindle.live import layers_table

HOSTILE = "\x1b[31m\x00\x9b[/x]:smile:<b>&|`a`_b_\r\u202e\ud800\uffff\n[bold]"
VERDICT = Verdict((Check("max_size", HOSTILE, 25_000, None, False, HOSTILE),))
ANY = st.text(st.characters(exclude_categories=()))


@given(ANY)
def test_a_terminal_is_told_nothing_but_text(text: str) -> None:
    shown = foreign.printable(text)
    assert not [sign for sign in shown if (sign < " " or "\x7f" <= sign < "\xa0") and sign not in "\t\n"]
    shown.encode("utf-8")
    assert "\n" not in foreign.single_line(text)


@given(ANY)
def test_xml_can_hold_it(text: str) -> None:
    element = ElementTree.Element("a", {"b": foreign.xml(text)})
    element.text = foreign.xml(text)
    read = ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))
    assert read.text == (foreign.xml(text) or None)


@given(ANY)
def test_a_markdown_cell_stays_one(text: str) -> None:
    cell = foreign.markdown(text)
    assert "\n" not in cell
    assert "<" not in cell
    unescaped = cell.replace("\\\\", "").replace("\\|", "")
    assert "|" not in unescaped


@pytest.mark.parametrize("text", ["net.dwindle", "exports/onnx/net.onnx", "größe 漢字 🙂", "tab\tand\nline"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert foreign.printable(text) == foreign.xml(text) == text


def test_tables_print_hostile_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = foreign.console()
    console.width = 200
    plain = Table("name")
    plain.add_row(HOSTILE)
    changed = Diff("a", HOSTILE, (HOSTILE, HOSTILE), (), (), (Change(HOSTILE, HOSTILE, 3),))
    layer = Layer(HOSTILE, (8, 8), (4, 8), 0.5)
    for table in (plain, gate_table(VERDICT), diff_table(changed), layers_table([layer]), HOSTILE):
        console.print(table)
        said = capsys.readouterr().err
        assert "[/x]" in said
        assert ":smile:" in said
        assert "\\x1b[31m\\x00" in said
        assert "\x1b" not in said


def test_tables_obey_no_markup_on_a_callers_console_either() -> None:
    written = io.StringIO()
    console = Console(file=written, width=200)
    for table in (gate_table(VERDICT), layers_table([Layer("a[/x]", (8, 8), (4, 8), 0.5)])):
        console.print(table)
    assert written.getvalue().count("[/x]") == 4


def test_the_verdict_of_hostile_names_is_well_formed(tmp_path: Path) -> None:
    write_junit(VERDICT, HOSTILE, tmp_path / "gate.xml")
    (suite,) = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert suite.attrib["errors"] == "1"
    assert "\\x1b[31m\\x00" in suite[0][0].attrib["message"]
    lines = markdown(replace(VERDICT, rows=VERDICT.rows * 2), HOSTILE).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 2
    assert {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")} == {7}
