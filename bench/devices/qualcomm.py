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
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dwindle.bench import build
from dwindle.bench.result import Machine
from dwindle.bench.runtime import Launch
from dwindle.errors import DwindleError, RuntimeUnavailable, UsageError
from dwindle.files import user_cache, write_json

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

SCHEME = "qualcomm://"
CLIENT = "qai-hub==0.56.0"
SETUP = "dwindle doctor --setup qualcomm"
RUNTIMES = {"onnx": "onnxruntime", "litert": "litert"}
"""By target: what runs its files there."""
PATIENCE = 3600.0
"""Seconds that a job may wait for its phone, and take on it."""


def root() -> Path:
    """The client's environment: its protobuf is not dwindle's."""
    return user_cache() / "qualcomm" / CLIENT


def _made() -> bool:
    return (root() / "setup.json").exists()


def unavailable() -> str | None:
    """Why nothing can be measured there from here, in words, with the command that changes that; None if it can."""
    if not _made():
        return f"AI Hub's client is not installed: run {SETUP}"
    settings = os.environ.get("QAIHUB_CLIENT_INI") or Path.home() / ".qai_hub" / "client.ini"
    if not Path(settings).exists():
        return f"AI Hub's client has no account: run {root() / 'bin' / 'qai-hub'} configure --api_token TOKEN"
    return None


def setup(progress: Callable[[str], None] = lambda line: None) -> Path:
    """Installs the client (165 MB, from PyPI) and returns its environment's folder; at once if it is there.

    What was interrupted is made anew. Raises DwindleError where pip fails.
    """
    if not _made():
        progress(f"installing {CLIENT}")
        shutil.rmtree(root(), ignore_errors=True)
        # Where it stays: a virtual environment can't be moved.
        python = root() / "bin" / "python"
        for command in (
            [sys.executable, "-m", "venv", str(root())],
            [str(python), "-m", "pip", "install", "--quiet", CLIENT],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                raise DwindleError(f"can't install {CLIENT}: {said[-1] if said else f'exit code {done.returncode}'}")
        write_json(root() / "setup.json", {"client": CLIENT})
    progress(f"AI Hub's client is in {root()}")
    return root()


class AIHub:
    """A context manager, since every device is one."""

    targets = tuple(RUNTIMES)
    unanswered = dict.fromkeys(
        ("accuracy", "agreement", "parity"),
        "an inference there is a job of minutes, so that test samples aren't sent: it is timed only",
    ) | {"memory_bytes": "AI Hub doesn't say by how much the file made it grow"}

    def __init__(self, url: str) -> None:
        """Raises UsageError where it names no device."""
        self.url, self.name = url, url.removeprefix(SCHEME)
        if not self.name:
            raise UsageError(f"{url!r} names no device: write {SCHEME} and a name that `qai-hub list-devices` prints")

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where the client isn't set up."""
        if reason := unavailable():
            raise RuntimeUnavailable(f"{self.url}: {reason}")
        self.machine = Machine(self.name, 1, "Qualcomm AI Hub")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # nothing of ours runs there

    def busy(self) -> Reading:
        from dwindle.bench.measure import Reading

        return Reading(math.nan, 0.0)  # it says nothing of it

    def runtimes(self) -> Sequence[InAIHub]:
        return [InAIHub(self, name, target) for target, name in RUNTIMES.items()]


@dataclass(frozen=True)
class InAIHub:
    """A Runtime on one of them."""

    device: AIHub
    name: str
    target: str

    def unavailable(self) -> str | None:
        return unavailable()

    def launch(self, path: Path, threads: int) -> Launch:
        from dwindle.bench import wire

        # AI Hub chooses the unit and its threads.
        python, worker = root() / "bin" / "python", build.NATIVE / "aihub.py"
        return Launch([str(python), "-P", str(worker), wire.__file__, str(path), self.device.name], None, PATIENCE)
