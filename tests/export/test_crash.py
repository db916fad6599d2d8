"""Native code that ends its process, in every step of an export: what is left is a sentence and an exit code."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dwindle import checkpoint as checkpoints
from dwindle.errors import DwindleError
from dwindle.export import export, exporter, one_target, side_by_side, targets
from dwindle.export.fold import deployable
from dwindle.export.options import ExportOptions
from dwindle.models.zoo import resnet8
from dwindle.record import Round

CRASHES: dict[str, Callable[[], object]] = {
    "SIGABRT": os.abort,
    "SIGSEGV": lambda: ctypes.string_at(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
TARGETS = ("onnx", "coreml", "executorch", "litert", "mnn")
EXTRAS = ("litert", "mnn")
"""Of these, those that are installed as extras."""
STEPS = {
    "holding": "looking at the values that net{suffix} has to hold",
    "write": "writing net{suffix}",
    "decode": "reading the weights back from net{suffix}",
    "run": "running net{suffix} in {runtime}",
    "second run": "looking for the first operator that differs, as net{suffix} is off",
}
"""What is said, by the step in which native code crashes."""


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.needs(name)) if name in EXTRAS else name for name in TARGETS]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_in_any_step_of_any_target_is_a_sentence(
    step: str, target: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Only the crash is real: what comes before it is left out, so that each takes a moment."""
    how = list(CRASHES)[(list(STEPS).index(step) + TARGETS.index(target)) % len(CRASHES)]
    loaded, ran = targets.load(target), 0

    def crash(*given: Any, **options: Any) -> None:
        faulthandler.disable()  # pytest's own, whose many lines would be the last ones
        os.write(2, b"something went wrong\n")
        CRASHES[how]()

    def answers(self: object, path: Path, inputs: tuple[torch.Tensor, ...]) -> tuple[np.ndarray, ...]:
        nonlocal ran
        ran += 1
        if ran > 1:
            crash()
        return (np.ones((len(inputs[0]), 3), np.float32),)

    def one(*given: object) -> None:
        network = nn.Linear(4, 3).eval()
        example = (torch.ones(1, 4),)
        networks = {"net": (network, deployable(network, example))}
        one_target.export_networks(networks, example, example, tmp_path / "exports", loaded)

    stubs: dict[str, Callable[..., Any]] = {
        "holding": lambda self, *given: self,
        "write": lambda self, *given, **options: "dense",
        "decode": lambda self, *given: {},
        "run": answers if step == "second run" else lambda self, *given: None,
    }
    for name, stub in {**stubs, step: crash}.items():
        if hasattr(type(loaded), name):
            monkeypatch.setattr(type(loaded), name, stub)
    monkeypatch.setattr(one_target, "export_one", one)
    monkeypatch.setattr(side_by_side, "_OPTIONAL", {})
    monkeypatch.setattr(sys, "argv", ["", json.dumps([(str(tmp_path), target, asdict(ExportOptions()), False)])])
    side_by_side.main()
    (said,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("\0")]
    index, kind, message, fields = json.loads(said.removeprefix("\0"))
    assert (index, kind, fields) == (0, "DwindleError", {"code": "process-died", "name": target})
    where = STEPS[step].format(suffix=loaded.suffix, runtime=loaded.stand_in or f"the runtime of {target}")
    assert message.startswith(f"the export to {target} crashed ({how}) while {where}")
    assert message.endswith(": something went wrong")


MODULE = """
import os

from dwindle.export.onnx.target import Onnx

def crash(self, *given, **options):
    os.write(2, b"something went wrong\\n")
    os.abort()

Onnx.write = crash
"""


@pytest.mark.slow
def test_a_crash_costs_the_caller_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the outside, with nothing left out: the error has a documented exit code, and nothing is left behind."""
    path, network = tmp_path / "net.dwindle", resnet8(in_channels=1)
    origin = {"model": {"spec": "zoo:resnet8", "classes": 10, "input_shape": [1, 8, 8]}, "task": {"data": "digits"}}
    history = (Round(0, 1.0, None, validation=100.0, loss=None, seconds=0.0),)
    done = replace(checkpoints.start(path, origin), done=True, history=history)
    checkpoints.finish(done, {"weights": network.state_dict(), "dense": network.state_dict()}, {})
    (tmp_path / "sitecustomize.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exporter, "side_by_side", side_by_side)  # in a process of its own, as outside of tests
    with pytest.raises(DwindleError) as failed:
        export(path, ["onnx"])
    assert (failed.value.code, failed.value.name, failed.value.exit_code) == ("process-died", "onnx", 1)
    assert str(failed.value) == "the export to onnx crashed (SIGABRT) while writing net.onnx: something went wrong"
    assert not list(path.glob("exports/*/net*"))
