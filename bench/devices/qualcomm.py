"""Qualcomm AI Hub's phones as devices: its client, in an environment of its own, has a file profiled on one of them.

`qualcomm://Samsung Galaxy S24` names a device as AI Hub lists it. A file is sent to the service of the account that its
client was configured for; it times the file there, in jobs of minutes each. Written against qai-hub 0.56; it has not
been run on Qualcomm hardware.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dwindle.bench import build
from dwindle.bench.devices.device import Device
from dwindle.bench.launch import Launch
from dwindle.bench.machine import Reading
from dwindle.bench.missing import Missing
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import DwindleError
from dwindle.files import user_cache, write_json

CLIENT = "qai-hub==0.56.0"
SETUP = "dwindle doctor --setup qualcomm"
RUNTIMES = {"onnx": "onnxruntime", "litert": "litert"}
"""The runtime that runs a target's files there, by target."""
PATIENCE = 3600.0
"""Seconds that a job may wait for its phone, and take on it."""


def root() -> Path:
    """The folder of the client's environment, which is its own as its protobuf is not dwindle's."""
    return user_cache() / "qualcomm" / CLIENT


class AIHub(Device):
    """A phone of Qualcomm AI Hub's, on which nothing of dwindle's runs but the file."""

    scheme = "qualcomm"
    usage = "qualcomm://NAME"
    summary = "a phone of Qualcomm AI Hub's, latency alone"
    targets = tuple(RUNTIMES)
    not_yet_run_on = "Qualcomm hardware"
    setup_downloads = "165 MB from PyPI"
    never_known = dict.fromkeys(
        ("accuracy", "agreement", "parity"),
        "an inference there is a job of minutes, so that test samples aren't sent: it is timed only",
    ) | {"memory_bytes": "AI Hub doesn't say by how much the file made it grow"}

    def __init__(self, name: str) -> None:
        self.url, self.name = name, name.removeprefix("qualcomm://")
        if not name.startswith("qualcomm://") or not self.name:
            raise self.malformed(name, "write `qualcomm://` and a name that `qai-hub list-devices` prints")

    @classmethod
    def check(cls) -> Missing | None:
        if not _made():
            return Missing("AI Hub's client is not installed", SETUP)
        settings = os.environ.get("QAIHUB_CLIENT_INI") or Path.home() / ".qai_hub" / "client.ini"
        if not Path(settings).exists():
            command = f"{root() / 'bin' / 'qai-hub'} configure --api_token TOKEN"
            return Missing("AI Hub's client has no account", command)
        return None

    @classmethod
    def found(cls) -> str:
        return f"{CLIENT}: what its `list-devices` prints is a device"

    @classmethod
    def setup(cls, progress: Callable[[str], None] = lambda line: None) -> Path:
        """Installs the client and returns its environment's folder; what was interrupted is made anew."""
        if not _made():
            progress(f"installing {CLIENT}")
            shutil.rmtree(root(), ignore_errors=True)
            # Where it stays: a virtual environment can't be moved.
            python = root() / "bin" / "python"
            _run([sys.executable, "-m", "venv", str(root())])
            _run([str(python), "-m", "pip", "install", "--quiet", CLIENT])
            write_json(root() / "setup.json", {"client": CLIENT})
        progress(f"AI Hub's client is in {root()}")
        return root()

    def __enter__(self) -> Self:
        super().__enter__()
        self.machine = Machine(self.name, 1, "Qualcomm AI Hub")
        return self

    def busy(self) -> Reading:
        """Unknown: AI Hub does not say how busy a phone is."""
        return Reading(math.nan, 0.0)

    def runtimes(self) -> Sequence[InAIHub]:
        return [InAIHub(self.name, name, target) for target, name in RUNTIMES.items()]


@dataclass(frozen=True)
class InAIHub(Launcher):
    """A runtime on one of AI Hub's phones."""

    device: str
    name: str
    target: str

    def check(self) -> Missing | None:
        return AIHub.check()

    def launch(self, path: Path, threads: int) -> Launch:
        """Starts the client. `threads` has no effect: AI Hub chooses the unit and its threads."""
        from dwindle.bench import wire

        python, worker = root() / "bin" / "python", build.NATIVE / "aihub.py"
        command = [str(python), "-P", str(worker), wire.__file__, str(path), self.device]
        return Launch(command, patience=PATIENCE)


def _made() -> bool:
    return (root() / "setup.json").exists()


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = said[-1] if said else f"exit code {done.returncode}"
        raise DwindleError(f"can't install {CLIENT}: {why}", code="setup-failed", name="qualcomm")
