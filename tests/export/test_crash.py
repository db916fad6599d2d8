"""Native code that ends its process, in every step of an export to one target: what is left is a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dwindle import checkpoint as checkpoints
from dwindle.errors import DwindleError
from dwindle.export import export
from dwindle.models.zoo import resnet8

CRASHES = {"abort": "os.abort()", "segfault": "__import__('ctypes').string_at(0)", "killed": "os.kill(os.getpid(), 9)"}
MODULE = """
import os

from dwindle.export.onnx.target import Onnx

def crash(self, *given, **options):
    os.write(2, b"something went wrong\\n")
    {how}

Onnx.{step} = crash
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, network = tmp_path_factory.mktemp("crash") / "net.dwindle", resnet8(in_channels=1)
    origin = {"model": {"spec": "zoo:resnet8", "classes": 10, "input_shape": [1, 8, 8]}, "task": {"data": "digits"}}
    history = (checkpoints.Round(0, 1.0, None, validation=100.0, loss=None, seconds=0.0),)
    done = replace(checkpoints.start(path, origin), done=True, history=history)
    checkpoints.finish(done, {"weights": network.state_dict(), "dense": network.state_dict()}, {})
    return path


@pytest.mark.parametrize(
    ("step", "how", "name", "words"),
    [
        ("write", "abort", "SIGABRT", "while writing net.onnx"),
        ("run", "segfault", "SIGSEGV", "while running net.onnx in the runtime of onnx"),
        pytest.param(
            *("decode", "abort", "SIGABRT", "while reading the weights back from net.onnx"), marks=pytest.mark.slow
        ),
        pytest.param(
            *("run", "killed", "SIGKILL", "while running net.onnx in the runtime of onnx"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_crash_is_a_sentence_with_the_file_and_the_step(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, how: str, name: str, words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(MODULE.format(how=CRASHES[how], step=step))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DwindleError) as failed:
        export(checkpoint, ["onnx"])
    assert (failed.value.code, failed.value.name, failed.value.exit_code) == ("process-died", "onnx", 1)
    assert str(failed.value) == f"the export to onnx crashed ({name}) {words}: something went wrong"
