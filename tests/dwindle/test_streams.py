"""Commands in processes of their own, whose standard streams are closed, full or no longer read."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dwindle.checkpoint import Checkpoint
from dwindle.cli import main

COMPRESS = ["compress", "zoo:resnet8", "--data", "digits", "--density", "0.5", "--epochs", "1", "--rounds", "1"]
COMPRESS += ["--for", "pytorch", "--granularity", "unstructured", "--no-rehearsal", "-o", "net.dwindle"]
EXPORT = ["export", "net.dwindle"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished, exported checkpoint."""
    folder = tmp_path_factory.mktemp("streams")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert [main(command) for command in (COMPRESS, EXPORT)] == [0, 0]
    return folder


def line(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "dwindle", *command]


def shell(command: list[str], redirected: str, folder: Path) -> tuple[int, str, str]:
    """Runs a command with the shell's redirections; its exit code, stdout and stderr."""
    text = f"exec {shlex.join(line(command))} {redirected}"
    done = subprocess.run(["sh", "-c", text], cwd=folder, capture_output=True, text=True, encoding="utf-8")
    return done.returncode, done.stdout, done.stderr


def gate(size: str) -> list[str]:
    return ["gate", "net.dwindle", "--max-size", size]


@pytest.mark.slow
def test_work_goes_on_when_nobody_reads_stderr(tmp_path: Path) -> None:
    for command in (COMPRESS, EXPORT):
        process = subprocess.Popen(line(command), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait() == 0
    assert Checkpoint.load(tmp_path / "net.dwindle").done
    assert (tmp_path / "net.dwindle/exports/pytorch/manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "code"), [("1MB", 0), ("10", 3), ("nonsense", 2)])
def test_a_verdict_does_not_hang_on_its_reader(folder: Path, size: str, code: int) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(line(gate(size)), cwd=folder, stdout=writing, stderr=writing)
    os.close(reading)
    os.close(writing)
    assert process.wait() == code


@pytest.mark.parametrize(("redirected", "size", "code"), [("2>&-", "1MB", 0), ("2>/dev/full", "10", 3)])
def test_stderr_that_cannot_be_written(folder: Path, redirected: str, size: str, code: int) -> None:
    ended, document, _ = shell([*gate(size), "--json"], redirected, folder)
    assert (ended, json.loads(document)["exit_code"]) == (code, code)


def test_a_document_for_a_closed_stdout_is_an_error(folder: Path) -> None:
    code, _, said = shell([*gate("1MB"), "--json"], ">&-", folder)
    assert code == 1
    assert said.splitlines()[-1] == "dwindle: cannot write to standard output: it is closed"
    code, _, said = shell(gate("1MB"), ">&-", folder)
    assert code == 0, "the verdict's, whoever reads its table"
    assert "warning: cannot write to standard output: it is closed" in said


def test_files_never_take_the_place_of_a_closed_stream(folder: Path) -> None:
    """A library that prints to descriptor 2 would otherwise write into whatever was opened next."""
    script = (
        "import os, sys; from dwindle import streams; streams.protect(); "
        "print(os.open('taken', os.O_CREAT | os.O_RDWR), file=open('number', 'w'))"
    )
    subprocess.run(["sh", "-c", f"{shlex.join([sys.executable, '-c', script])} <&- >&- 2>&-"], cwd=folder, check=True)
    assert int((folder / "number").read_text()) > 2
