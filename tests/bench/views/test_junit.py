from pathlib import Path
from xml.etree import ElementTree

import pytest

from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.junit import write_junit
from dwindle.errors import DwindleError

VERDICT = Verdict(
    (
        Check("max_size", "onnx", 25_000, 24_901, True, None),
        Check("max_drop", "onnx", 1.0, 1.5, False, "95.00 against 96.50 in <runtime> & co"),
        Check("max_growth.cost", "coreml", 0.02, None, False, "no Mac"),
    )
)


def test_every_limit_is_a_case_and_its_outcome_an_element(tmp_path: Path) -> None:
    write_junit(VERDICT, "net.dwindle", tmp_path / "deep" / "gate.xml")
    (suite,) = ElementTree.parse(tmp_path / "deep" / "gate.xml").getroot()
    counts = (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["errors"])
    assert counts == ("3", "1", "1")
    held, missed, absent = suite
    assert held.attrib["classname"] == "dwindle.gate.onnx"
    assert held.attrib["name"] == "max size"
    assert [child.tag for child in held] == ["system-out"]
    assert [child.tag for child in missed] == ["failure"]
    assert missed[0].attrib["message"] == "1.50 points, allowed 1.00 points: 95.00 against 96.50 in <runtime> & co"
    assert [child.tag for child in absent] == ["error"]
    assert absent.attrib["name"] == "max growth of cost"
    assert "no Mac" in absent[0].attrib["message"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DwindleError, match="cannot write"):
        write_junit(VERDICT, "net", tmp_path / "file" / "gate.xml")
