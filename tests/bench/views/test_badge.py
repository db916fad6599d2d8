from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.badge import write_badge
from dwindle.errors import UsageError


def badge(tmp_path: Path, *rows: Check, name: str = "net.onnx", **figures: float) -> Xml.Element:
    write_badge(tmp_path / "b.svg", Verdict(rows, figures={"x": figures}, subjects={"x": Path(name)}))
    return Xml.parse(tmp_path / "b.svg").getroot()


def words(picture: Xml.Element) -> list[str | None]:
    return [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]


def colour(picture: Xml.Element) -> str:
    return list(picture.iter("{http://www.w3.org/2000/svg}rect"))[1].attrib["fill"]


def test_it_says_size_and_accuracy(tmp_path: Path) -> None:
    assert words(badge(tmp_path, size=24_900.0, accuracy=96.24)) == ["net.onnx", "24.9 KB · accuracy 96.2"]
    assert words(badge(tmp_path, size=24_900.0)) == ["net.onnx", "24.9 KB"]


def test_its_colour_is_the_outcome(tmp_path: Path) -> None:
    outcomes = [Check("max_size", "x", 1, measured, passed, None) for measured, passed in
                ((1.0, True), (2.0, False), (None, False))]  # fmt: skip
    assert len({colour(badge(tmp_path, row, size=1.0)) for row in outcomes}) == 3


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    name = "<script>&\x01\"'.onnx"
    picture = badge(tmp_path, name=name, size=1.0)
    assert str(words(picture)[0]).startswith("<script>&")
    assert not list(picture.iter("{http://www.w3.org/2000/svg}script"))


def test_it_is_about_one_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        write_badge(tmp_path / "b.svg", Verdict((), figures={"a": {"size": 1}, "b": {"size": 2}}))
    assert refused.value.code == "not-one-file"
