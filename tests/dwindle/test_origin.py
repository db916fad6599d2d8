"""The command that a checkpoint's origin comes back as makes a checkpoint of that origin."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dwindle.compress.request import request_of
from dwindle.compress.resolve import resolve
from dwindle.errors import CheckpointError
from dwindle.grammar import Grammar
from dwindle.models.tasks import make_task
from dwindle.origin import command_line, requested

GRAMMAR = Grammar()
RECORDED: list[dict[str, Any]] = [
    each["origin"] for each in json.loads((Path(__file__).parents[1] / "compress/origins.json").read_text())
]


def parsed(pieces: list[str]) -> Any:
    program, *argv = shlex.split(" ".join(pieces), comments=True)
    assert program == "dwindle"
    return request_of(GRAMMAR.parse(argv))


@pytest.mark.parametrize("origin", RECORDED)
def test_the_command_makes_a_checkpoint_of_the_same_origin(
    origin: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_bytes(b"weights")
    pieces = command_line(origin, "my net.dwindle")
    request = parsed(pieces)
    assert request == requested(origin)
    assert "-o 'my net.dwindle'" in pieces
    resolved = resolve(request)
    options = dict(resolved.task_options)
    task = make_task(options).origin if "data" in options else options  # type: ignore[attr-defined]
    assert json.loads(json.dumps({"model": origin["model"], "task": task, **resolved.origin})) == origin
    assert ("# FILE: the weights with SHA-256" in pieces[-1]) == (origin["weights"] is not None)


def test_only_what_was_asked_for_is_said() -> None:
    assert command_line(RECORDED[0], "net.dwindle") == [
        "dwindle compress zoo:resnet8",
        "--data digits",
        "--precision fp32",
        "--size 25000",
        "-o net.dwindle",
    ]


def test_recipe_precision_drop_and_floor_are_said() -> None:
    recorded = next(origin for origin in RECORDED if origin["max_drop"] is not None)
    assert command_line(recorded, "net.dwindle") == [
        "dwindle compress zoo:resnet8",
        "--data digits",
        "--augment 100%",
        "--precision int8",
        "--max-drop 60",
        "--granularity channel",
        "--layer-floor 10%",
        "--recipe best",
        "-o net.dwindle",
    ]


def test_what_only_python_can_ask_for_is_said_in_a_comment() -> None:
    origin = {"model": {"spec": "m:f"}, "task": {"task": "m:Loop", "width": 3, "seed": 0}, "size": 9}
    assert command_line(origin, "net.dwindle") == [
        "dwindle compress m:f",
        "--task m:Loop",
        "--size 9",
        "-o net.dwindle",
        "# and from Python, the task's own options: width=3",
    ]


def test_no_name_from_a_file_becomes_a_command() -> None:
    origin = {
        "model": {"spec": "m:f; touch a"},
        "task": {"task": "$(touch b)", "x\ntouch c": 3},
        "weights": "0a\ntouch d",
        "score": "`touch e`",
    }
    words = shlex.split(" ".join(command_line(origin, "net; touch f")), comments=True)
    assert words == [
        *("dwindle", "compress", "m:f; touch a", "--task", "$(touch b)", "--score", "`touch e`"),
        *("--weights", "FILE", "-o", "net; touch f"),
    ]


@pytest.mark.parametrize(
    "changed",
    [{"density": [1]}, {"density": {}}, {"size": 10**400, "macs": 10**400}, {"include": [3, {}]}, {"score": ["x"]}],
)
def test_a_value_that_no_option_can_have_is_named(changed: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        command_line({**RECORDED[0], **changed}, "net.dwindle")


def test_an_origin_without_anything_is_a_command_too() -> None:
    assert command_line({}, "net.dwindle")[0] == "dwindle compress MODEL"
