"""The command line: quick to answer, one sentence and the documented exit code for every bad input."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dwindle.cli import main


def not_a_module() -> int:
    return 3


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def no_logits() -> nn.Module:
    return Pair()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with a user's own module in it."""
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def number(): return 3\n"
        "class Pair(nn.Module):\n    def forward(self, x): return x, x\n"
        "width = iter(range(8, 99))\n"
        "def other(): return nn.Sequential(nn.Flatten(), nn.Linear(64, w := next(width)), nn.Linear(w, 10))\n"
        "def tiny(num_classes, in_channels): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compress(*options: str) -> list[str]:
    return ["compress", *options, "-o", "net.dwindle"]


BAD = [
    (compress("zoo:resnet9", "--data", "digits", "--size", "30KB"), 2, "did you mean 'resnet"),
    (compress("resnet8", "--data", "digits", "--size", "30KB"), 2, "write zoo:resnet8"),
    (compress("nowhere.at:all", "--data", "digits", "--size", "30KB"), 2, "can't be imported"),
    (compress("mine:number", "--data", "digits", "--size", "30KB"), 2, "it must return a torch.nn.Module"),
    (compress("mine:Pair", "--data", "digits", "--size", "30KB"), 2, "it must return a tensor of logits"),
    (compress("mine:other", "--data", "digits", "--size", "1KB"), 2, "is a different network each time it is made"),
    (compress("torchvision:resnet18", "--data", "digits", "--size", "1MB"), 2, "takes 3 channels"),
    (compress("zoo:resnet8", "--data", "digitz", "--size", "30KB"), 2, "did you mean 'digits'"),
    (compress("zoo:resnet8", "--data", "digits", "--size", "30KB", "--for", "tflite"), 2, "unknown target"),
    (compress("zoo:resnet8", "--size", "30KB"), 2, "give --data or --task"),
    (compress("zoo:resnet8", "--data", "digits"), 2, "there is no budget"),
    (
        compress("zoo:resnet8", "--data", "digits", "--size", "30KB", "--rewind-to", "1.5"),
        2,
        "--rewind-to is 1.5",
    ),
    (compress("zoo:resnet8", "--data", "digits", "--size", "30KB", "--rounds", "0"), 2, "--rounds is 0"),
    (compress("mine:tiny", "--data", "digits", "--density", "0.5", "--weights", "no.pt"), 2, "can't be read: No such"),
    (compress("mine:tiny", "--data", "digits", "--density", "0.5", "--weights", "mine.py"), 2, "neither safetensors"),
    (compress("zoo:resnet8", "--data", "digits", "--density", "0.5", "--schedule", "linear"), 2, "'linear'"),
    (compress("zoo:resnet8", "--data", "digits", "--density", "0.5", "--crop", "-1"), 2, "--crop is -1"),
    (compress("mine:tiny", "--data", "digits", "--size", "100"), 3, "cannot be reached"),
    (compress("mine:tiny", "--data", "digits", "--size", "90MB"), 2, "nothing to prune"),
    (["export", "nothing.dwindle"], 1, "not a checkpoint"),
    (["bench", "nothing.dwindle"], 1, "not a checkpoint"),
    (["gate", "nothing.dwindle", "--max-size", "1KB"], 1, "not a checkpoint"),
    (["report", "nothing.dwindle"], 1, "not a checkpoint"),
    (["show", "nothing.dwindle"], 1, "not a checkpoint"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(a[:6]) for a, _, _ in BAD])
def test_bad_input_is_one_sentence_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    before = sorted(here.iterdir())
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_an_option_that_cannot_be_read_is_one_sentence_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "zoo:resnet8", "--size", "0"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "argument --size: '0' is not a size: write for example 500KB" in said


@pytest.mark.parametrize(("flag", "near"), [("--max-sise", "--max-size"), ("--wavelength", None)])
def test_an_unknown_option_names_the_nearest_and_its_commands_help(
    flag: str, near: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["gate", "net.onnx", flag, "3"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "dwindle gate --help" in said
    assert ("did you mean" in said) == (near is not None)
    assert near is None or f"{near}?" in said


def test_a_path_that_is_taken_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "net.dwindle").write_text("mine")
    assert main(compress("mine:tiny", "--data", "digits", "--density", "0.5", "--epochs", "1")) == 2
    assert "exists and is not a checkpoint" in capsys.readouterr().err
    assert (here / "net.dwindle").read_text() == "mine"


def test_quiet_leaves_results_and_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = compress("mine:tiny", "--data", "digits", "--density", "0.5", "--rounds", "1", "--epochs", "2", "-q")
    command += ["--for", "pytorch", "--granularity", "unstructured"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert "round 1" not in said.err
    assert main(["export", "net.dwindle", "--model", "mine:tiny", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "pytorch/net.pt2" in said.out
    assert not said.err
    assert main(["export", "net.dwindle", "--target", "onyx", "--quiet"]) == 2
    assert "onyx" in capsys.readouterr().err


def test_compress_then_show(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = compress("mine:tiny", "--data", "digits", "--density", "0.5", "--rounds", "2", "--epochs", "2", "--json")
    assert main(command) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["done"]
    assert [round(r["density"], 2) for r in facts["history"]] == [1.0, 0.71, 0.5]
    assert "test" in facts["metrics"]
    assert said.err.count("\n") >= 4, "a line per round and a summary"
    assert main(["show", "net.dwindle"]) == 0
    said = capsys.readouterr()
    assert "× smaller" in said.out
    assert not said.err, "a pipe or a file gets the whole result"
    assert main(["export", "net.dwindle", "--packing", "none", "--model", "mine:tiny"]) == 0
    assert "onnx/net.onnx" in capsys.readouterr().out
    assert main(["show", "net.dwindle", "--json"]) == 0
    said = capsys.readouterr()
    (exported,) = json.loads(said.out)["exports"]
    assert (exported["encoding"], exported["precision"], exported["altered"]) == ("dense fp32", "fp32", [])
    with (here / exported["path"]).open("ab") as file:
        file.write(bytes(exported["bytes"]))
    assert main(["show", "net.dwindle"]) == 0
    said = capsys.readouterr()
    assert "onnx/net.onnx" in said.out
    assert f"warning: {exported['path']} is not the file its manifest describes: it was exported with" in said.out
    weights = (here / "net.dwindle/weights.safetensors").stat().st_mtime_ns
    assert main(command) == 0, "finished work is not done again"
    assert (here / "net.dwindle/weights.safetensors").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_the_command_that_is_shown_makes_the_same_checkpoint(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", "best", "--precision", "int8", "--layer-floor", "10%", "--granularity", "channel"]
    training = ["--data", "digits", "--epochs", "1", "--momentum", "0.8", "--no-record", "--save-every", "9"]
    budget = ["--density", "70%", "--rounds", "1", "--align", "4", "--weights", "FILE"]
    (here / "wide.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))\n"
    )
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    torch.save(first.state_dict(), here / "FILE")
    assert main(compress("wide:net", *training, *options, *budget, "--json")) == 0
    done = json.loads(capsys.readouterr().out)
    assert main(["show", "net.dwindle", "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"]
    (here / "net.dwindle").rename(here / "first.dwindle")
    assert main([*shlex.split(" ".join(command), comments=True)[1:], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["origin"] == done["origin"]
    assert len(again["history"]) > 1
    made, remade = (load_file(here / name / "weights.safetensors") for name in ("first.dwindle", "net.dwindle"))
    assert made.keys() == remade.keys()
    assert all(torch.equal(made[name], remade[name]) for name in made)


def test_ctrl_c_says_how_to_resume(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.SGD, "step", interrupt)
    assert main(compress("mine:tiny", "--data", "digits", "--density", "0.5")) == 130
    assert "the same command resumes it" in capsys.readouterr().err


def run(script: str, **streams: Any) -> subprocess.Popen[bytes]:
    """A process of its own, whose standard streams are the system's."""
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, **streams)


def test_a_terminal_without_the_signs_of_help_gets_help() -> None:
    script = "from dwindle.cli import main; main(['--help'])"
    process = run(script, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    said, complaints = process.communicate()
    assert b"exit codes:" in said
    assert complaints == b""


PRINTING = (
    "import sys, dwindle.cli as cli; cli.RUN['show'] = lambda given: cli.print_json('x' * 200_000) or 3; "
    "sys.exit(cli.main(['show', 'net']))"
)


def test_whoever_reads_json_may_stop_reading() -> None:
    process = run(PRINTING, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 3, "the command's own"


@pytest.mark.needs("Linux")  # for /dev/full
def test_json_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        process = run(PRINTING, stdout=full)
        assert process.communicate()[1] == b"dwindle: cannot write to standard output: No space left on device\n"
    assert process.returncode == 1


def test_names_may_have_spaces_between_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nothing.dwindle", "--device", "host, browser:0"]) == 2
    assert "'browser:0' is not the name of a device" in capsys.readouterr().err


def test_alone_it_says_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert all(f"dwindle {command}" in said.err for command in ("demo", "init", "plan", "compress", "export", "gate"))


def test_a_shell_completes_commands_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "complete").write_text(capsys.readouterr().out)
    ask = (
        f"source {tmp_path / 'complete'}; COMP_WORDS=(dwindle {{}}); COMP_CWORD={{}}; _shtab_dwindle; "
        "echo ${{COMPREPLY[@]}}"
    )
    for words, at, answer in (
        ("ex", 1, "export"),
        ("export --snip", 2, "--snippet"),
        ("gate --badg", 2, "--badge"),
    ):
        ran = subprocess.run(["bash", "-c", ask.format(words, at)], capture_output=True, text=True, check=True)
        assert ran.stdout.split() == [answer]
