"""Options from a file, through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dwindle.cli import main
from dwindle.config import expand, keys
from dwindle.errors import UsageError
from dwindle.grammar import Grammar

GRAMMAR = Grammar()
COMPRESS, PLAN = GRAMMAR.commands["compress"], GRAMMAR.commands["plan"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.toml"


def test_the_files_options_come_first_so_that_those_given_win(file: Path) -> None:
    file.write_text('model = "zoo:resnet8"\ndata = "digits"\nepochs = 3\ncompile = true\ninclude = ["a*", "b"]\n')
    options = ["zoo:resnet8", "--data=digits", "--epochs=3", "--compile", "--include", "a*", "b"]
    argv = ["compress", "--config", str(file), "--epochs", "5"]
    assert expand(argv, COMPRESS) == ["compress", *options, "--epochs", "5"]
    argv = ["compress", "--size", "9KB", f"--config={file}"]
    assert expand(argv, COMPRESS) == ["compress", *options, "--size", "9KB"]


def test_switches_are_turned_on_and_off(file: Path) -> None:
    file.write_text("compile = false\nrecalibrate = false\nflip = true\n")
    assert expand(["compress", "--config", str(file)], COMPRESS) == [
        "compress",
        "--no-compile",
        "--no-recalibrate",
        "--flip",
    ]


def test_without_a_file_nothing_changes() -> None:
    argv = ["compress", "zoo:resnet8", "--size", "9KB"]
    assert expand(argv, COMPRESS) == argv


def test_every_option_is_a_key() -> None:
    """That of a file too, which is then refused; what a file names as `for` is `target` in Python."""
    assert {"model", "data", "prune-per-round", "for", "out", "track", "weight-decay", "flip"} <= keys(COMPRESS).keys()
    assert keys(COMPRESS).keys() - keys(PLAN).keys() == {"out", "track"}


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("epoch = 3", {"code": "unknown-name", "name": "epoch"}),
        ("modle = 'zoo:resnet8'", {"code": "unknown-name", "name": "modle"}),
        ("epochs = 2020-01-01", {"code": "invalid-value", "option": "epochs"}),
        ("epochs = [1, 2]", {"code": "invalid-value", "option": "epochs"}),
        ("epochs = true", {"code": "invalid-value", "option": "epochs"}),
        ("flip = 1", {"code": "invalid-value", "option": "flip"}),
        ("include = []", {"code": "invalid-value", "option": "include"}),
        ("include = [1]", {"code": "invalid-value", "option": "include"}),
        ("model = ['a', 'b']", {"code": "invalid-value", "option": "model"}),
        ("layer_floor = {a = 1}", {"code": "invalid-value", "option": "layer_floor"}),
        ("config = 'other.toml'", {"code": "invalid-value", "option": "config"}),
        ("json = true", {"code": "invalid-value", "option": "json"}),
        ("help = true", {"code": "invalid-value", "option": "help"}),
    ],
)
def test_a_key_or_a_value_that_is_no_option_is_named(file: Path, text: str, members: dict[str, Any]) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        expand(["compress", "--config", str(file)], COMPRESS)
    assert {name: getattr(refused.value, name) for name in members} == members
    assert refused.value.path == file


@pytest.mark.parametrize("text", ["epochs = ", None])
def test_a_file_that_cannot_be_read(file: Path, text: str | None) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=str(file)):
        expand(["compress", "--config", str(file)], COMPRESS)


def test_one_file_serves_both_commands(file: Path) -> None:
    file.write_text('model = "m:f"\nout = "net.dwindle"\ntrack = ["mlflow:a", "trackio:b"]\nepochs = 3\n')
    assert expand(["plan", "--config", str(file)], PLAN, keys(COMPRESS)) == ["plan", "m:f", "--epochs=3"]
    tracked = ["--out=net.dwindle", "--track=mlflow:a", "--track=trackio:b"]
    argv = ["compress", "m:f", *tracked, "--epochs=3"]
    assert expand(["compress", f"--config={file}"], COMPRESS, keys(COMPRESS)) == argv


@pytest.mark.parametrize("words", [["--config"], ["--config", "a", "--config", "b"]])
def test_a_flag_without_a_file_or_given_twice(words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        expand(["compress", *words], COMPRESS)
    assert refused.value.option == "config"


@pytest.mark.slow
def test_the_command_reads_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        'model = "zoo:resnet8"\ndata = "digits"\nepochs = 1\ndensity = "50%"\n'
        'for = "pytorch"\ngranularity = "unstructured"\n'
    )
    assert main(["plan", "--config", str(file), "--prune-per-round", "40%"]) == 0
    assert "pytorch:" in capsys.readouterr().out
    file.write_text("granularity = 3\nfro = 1\n")
    assert main(["plan", "--config", str(file)]) == 2
    assert "did you mean 'for'?" in capsys.readouterr().err
    file.write_text("config = 'net.toml'\n")
    assert main(["plan", "--config", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
