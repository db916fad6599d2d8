import tomllib
from pathlib import Path

import pytest

from dwindle.cli import main
from dwindle.compress.request import request_of
from dwindle.errors import UsageError
from dwindle.first_config import QUESTIONS, Question, answers, first_config, write_config
from dwindle.grammar import Grammar

GIVEN = {"model": "zoo:resnet8", "data": "digits", "target": "coreml", "size": "20KB"}


def test_the_file_asks_for_what_was_answered(tmp_path: Path) -> None:
    write_config(GIVEN, tmp_path / "net.toml")
    request = request_of(Grammar().parse(["plan", "--config", str(tmp_path / "net.toml")]))
    assert (request.model, request.target, request.size) == ("zoo:resnet8", "coreml", 20_000)
    assert request.task == {"data": "digits"}


def test_what_is_often_set_next_is_commented_out() -> None:
    text = first_config(GIVEN)
    assert set(tomllib.loads(text)) == {"model", "data", "for", "size"}
    assert "# granularity =" in text


def test_only_what_is_not_given_is_asked() -> None:
    asked = []

    def ask(question: Question) -> str:
        asked.append(question.option)
        return question.default or f"my {question.option}"

    found = answers({"data": "digits"}, ask)
    assert asked == [question.option for question in QUESTIONS if question.option != "data"]
    assert found == {"model": "my model", "data": "digits", "target": "onnx", "size": "500KB"}


def test_where_nobody_can_be_asked_the_missing_answer_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        answers({"model": "zoo:resnet8"}, None)
    assert (refused.value.code, refused.value.option) == ("missing-option", "data")


@pytest.mark.parametrize(("option", "answer"), [("target", "coremll"), ("size", "plenty")])
def test_an_answer_that_cannot_be_right_is_refused(option: str, answer: str) -> None:
    with pytest.raises(UsageError) as refused:
        answers({**GIVEN, option: answer}, None)
    assert refused.value.code in ("unknown-name", "invalid-value")


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "zoo:resnet8", "--data", "digits", "-o", str(tmp_path / "net.toml")]
    assert main(words) == 0
    before = (tmp_path / "net.toml").read_text()
    assert main([*words, "--size", "1MB"]) == 2
    assert (tmp_path / "net.toml").read_text() == before
