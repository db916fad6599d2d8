import json
import tomllib

import jsonschema  # type: ignore[import-untyped]
import pytest

from dwindle.cli import main
from dwindle.first_config import first_config
from dwindle.grammar import Grammar
from dwindle.schema import DRAFT, schema

SCHEMA = schema(Grammar().commands["compress"])


def test_the_command_prints_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == DRAFT


def test_a_first_configuration_is_valid() -> None:
    given = {"model": "zoo:resnet8", "data": "digits", "target": "coreml", "size": "20KB"}
    jsonschema.validate(tomllib.loads(first_config(given)), SCHEMA)


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({"density": 0.1, "flip": False, "exclude": ["head", "stem.*"]}, True),
        ({"size": 25_000, "exclude": "head"}, True),
        ({"flip": "no"}, False),
        ({"densty": 0.1}, False),
        ({"size": True}, False),
        ({"config": "other.toml"}, False),
    ],
)
def test_what_a_file_may_hold(document: dict[str, object], valid: bool) -> None:
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(document) == valid
