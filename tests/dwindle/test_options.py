"""Options are declared once: what a command line gives, it can be given again by, and help says it all."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from itertools import chain
from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from dwindle.compress import Request
from dwindle.compress.request import request_of, request_words
from dwindle.export import ExportOptions
from dwindle.grammar import COMMANDS as DECLARED
from dwindle.grammar import Grammar
from dwindle.models import TaskSpec
from dwindle.options import (
    INTEGER,
    MACS,
    MILLISECONDS,
    NAMES,
    NUMBER,
    PATTERNS,
    SHARE,
    SHARE_OR_ZERO,
    SIZE,
    SWITCH,
    TEXT,
    Option,
    as_flags,
    given,
    options,
    words,
)

GRAMMAR = Grammar()
COMMANDS = list(GRAMMAR.commands)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda text: text != "--")
WORDS = TEXTS.filter(lambda text: not text.startswith("-"))
"""What may stand where a flag may: layers, files and functions whose names begin with a dash can't be given there."""
VALUES: dict[int, st.SearchStrategy[Any]] = {
    id(TEXT): TEXTS,
    id(INTEGER): st.integers(),
    id(NUMBER): st.floats(allow_nan=False),
    id(SIZE): st.integers(1, 10**12),
    id(SHARE): st.floats(0, 1, exclude_min=True),
    id(SHARE_OR_ZERO): st.floats(0, 1),
    id(MACS): st.floats(0, exclude_min=True, allow_infinity=False),
    id(MILLISECONDS): st.floats(0, exclude_min=True, allow_infinity=False),
    id(SWITCH): st.booleans(),
    id(NAMES): st.lists(TEXTS.filter(lambda text: text and "," not in text), min_size=1, unique=True).map(tuple),
    id(PATTERNS): st.lists(WORDS, min_size=1, max_size=3).map(tuple),
}


def value(option: Option) -> st.SearchStrategy[Any]:
    return WORDS if option.positional else VALUES[id(option.kind)]


def some(declared: type, *without: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any options of a dataclass at any values."""
    return st.fixed_dictionaries(
        {}, optional={each.name: value(each) for each in options(declared) if each.name not in without}
    )


def tasks() -> st.SearchStrategy[Mapping[str, Any]]:
    built_in = st.builds(lambda data, rest: {"data": data, **rest}, TEXTS, some(TaskSpec, "data"))
    own = st.builds(lambda factory, rest: {"task": factory, **rest}, TEXTS, some(TaskSpec, "data"))
    return built_in | own


def requests() -> st.SearchStrategy[Request]:
    rest = some(Request, "model", "task")
    return st.builds(lambda model, task, own: Request(model, task, **own), WORDS, tasks(), rest)


@settings(deadline=None)
@generated(requests())
def test_a_request_as_a_command_line_makes_the_same_request(request: Request) -> None:
    argv = ["compress", *chain.from_iterable(request_words(request)), "-o", "net.dwindle"]
    assert request_of(GRAMMAR.parse(argv)) == request


@settings(deadline=None)
@generated(some(ExportOptions))
def test_the_options_of_export_can_be_given_again(values: dict[str, Any]) -> None:
    argv = ["export", "net.dwindle", *chain.from_iterable(words(values, ExportOptions))]
    assert given(GRAMMAR.parse(argv), ExportOptions) == values
    ExportOptions(**values)


AUGMENTATION = {"label_smoothing", "clip", "mixup", "cutmix", "area", "trivial", "erase"}
"""What recipes set, and a user of Python."""


def test_every_field_is_an_option_but_those_that_others_set() -> None:
    for declared, others in (
        (Request, set()),
        (ExportOptions, {"keeps_rejected"}),
        (TaskSpec, {"fingerprint", "preprocessing", "seed", "workers", *AUGMENTATION}),
    ):
        assert {each.name for each in fields(declared)} - {each.name for each in options(declared)} == others


def test_one_data_set_is_short_for_its_options() -> None:
    assert request_words(Request("m:f", "digits")) == [["m:f"], ["--data", "digits"]]


def test_a_quantity_given_as_text_is_written_as_it_is() -> None:
    assert request_words(Request("m:f", "digits", size="25KB", macs="50%", density=0.1, layer_floor=0.07))[2:] == [
        ["--size", "25KB"],
        ["--density", "10%"],
        ["--macs", "50%"],
        ["--layer-floor", "7%"],
    ]


def test_options_are_named_as_flags() -> None:
    flags = GRAMMAR.flags("compress")
    assert as_flags("`target` onnx, `flip` and `steps` of `dwindle plan`", flags) == (
        "--for onnx, --flip and `steps` of `dwindle plan`"
    )
    assert as_flags("give `out`", flags) == "give --out"


def actions(command: str) -> list[argparse.Action]:
    return GRAMMAR.commands[command]._actions


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_lacks_a_help_sentence(command: str) -> None:
    for action in actions(command):
        said = str(action.help) % vars(action) if action.help else ""
        assert said[:1].isupper(), (command, action.dest, said)
        assert said.endswith("."), (command, action.dest, said)
        assert len(said.split()) >= 4, (command, action.dest, said)
        assert "`" not in said, (command, action.dest, said)
        if (
            action.option_strings
            and action.nargs != 0
            and not action.required
            and action.dest not in ("config", "help")
        ):
            assert "Default: " in said, (command, action.dest, said)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_read_in_one_sitting(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert len(GRAMMAR.commands[command].format_help().splitlines()) <= 220


EXAMPLES = [line for command in DECLARED for line in command.examples]


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_examples_in_help_parse_and_fit_a_terminal(line: str) -> None:
    program, *words = line.split()
    assert program == "dwindle"
    GRAMMAR.parse(words)
    assert len(line) <= 78


HEAVY = ("torch", "onnx", "onnxruntime", "coremltools", "executorch", "sklearn", "numpy", "scipy", "rich", "jinja2")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, contextlib\n"
        "from dwindle.cli import main\n"
        f"for command in {[[], *([name] for name in COMMANDS)]}:\n"
        "    with contextlib.suppress(SystemExit): main([*command, '--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.count("exit codes:") == 1 + len(COMMANDS)
    assert out.strip().endswith("[]")


@pytest.mark.parametrize(
    "argv", [["compress", "m:f", "--conf", "net.toml"], ["gate", "net", "--max-s", "3"], ["--vers"]]
)
def test_flags_are_not_abbreviated(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        GRAMMAR.parse(argv)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
