"""Options from a file, through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.cli import main
from dwindle.config import expand
from dwindle.errors import UsageError

KNOWN = {"data", "size", "epochs", "compile", "include", "out"}


def test_the_files_options_come_first_so_that_those_given_win(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text('model = "zoo:resnet8"\ndata = "digits"\nepochs = 3\ncompile = true\ninclude = ["a*", "b"]\n')
    options = ["zoo:resnet8", "--data=digits", "--epochs=3", "--compile", "--include", "a*", "b"]
    assert expand(["compress", "--config", str(file), "--epochs", "5"], KNOWN) == [
        "compress",
        *options,
        "--epochs",
        "5",
    ]
    assert expand(["compress", "--size", "9KB", f"--config={file}"], KNOWN) == ["compress", *options, "--size", "9KB"]


def test_false_is_said_where_an_option_can_be_turned_off(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text("compile = false\nrecalibrate = false\n")
    known = {*KNOWN, "recalibrate", "no-recalibrate"}
    assert expand(["compress", "--config", str(file)], known) == ["compress", "--no-recalibrate"]


def test_without_a_file_nothing_changes() -> None:
    assert expand(["compress", "zoo:resnet8", "--size", "9KB"], KNOWN) == ["compress", "zoo:resnet8", "--size", "9KB"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch = 3", "epochs"),
        ("epochs = ", "is not TOML"),
        ("epochs = 2020-01-01", "epochs is a date"),
        ("modle = 'zoo:resnet8'", "did you mean 'model'"),
        ("model = ['a', 'b']", "model is a list: give a string"),
        ("epochs = [1, 2]", "epochs is a list: give one string or number"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "net.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        expand(["compress", "--config", str(file)], KNOWN)


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text('model = "m:f"\nout = "net.dwindle"\ntrack = ["mlflow:a", "trackio:b"]\nepochs = 3\n')
    assert expand(["plan", "--config", str(file)], KNOWN, {"out", "track"}) == ["plan", "m:f", "--epochs=3"]
    tracked = ["--out=net.dwindle", "--track=mlflow:a", "--track=trackio:b"]
    assert expand(["compress", f"--config={file}"], KNOWN, {"out", "track"}) == [
        "compress",
        "m:f",
        *tracked,
        "--epochs=3",
    ]


@pytest.mark.parametrize("words", [["--config"], ["--config", "a", "--config", "b"]])
def test_a_flag_without_a_file_or_given_twice(words: list[str]) -> None:
    with pytest.raises(UsageError, match="give --config once, with a file"):
        expand(["compress", *words], KNOWN)


def test_the_command_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.toml"
    file.write_text('model = "zoo:resnet8"\ndata = "digits"\nepochs = 1\ndensity = "50%"\nfor = "coreml"\n')
    assert main(["plan", "--config", str(file), "--prune-per-round", "40%"]) == 0
    assert "coreml:" in capsys.readouterr().err
    file.write_text("granularity = 3\nfro = 1\n")
    assert main(["plan", "--config", str(file)]) == 2
    assert "did you mean 'for'?" in capsys.readouterr().err
