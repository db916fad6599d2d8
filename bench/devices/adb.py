"""An Android device, through the user's own `adb`: whatever `adb devices` lists as `device`.

Tried with a double of adb's daemon; it has not been run on Android hardware.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwindle.bench import build
from dwindle.bench.devices.board import Board, OnBoard, Program
from dwindle.bench.devices.transport import Transport, ask, line
from dwindle.bench.missing import Missing
from dwindle.errors import RuntimeUnavailable

RUNNER = "DWINDLE_ANDROID_RUNNER"
"""The environment variable that says where the user's own Android build of native/runner.cpp is."""
_ADDRESS = re.compile(r"adb://(?!-)[\w.:-]+/?")


@dataclass(frozen=True)
class Adb(Transport):
    """Reaches `adb://serial`, where the serial is as `adb devices` has it."""

    url: str
    scratch = "/data/local/tmp"
    """The one folder that adb's shell may both write and run programs in."""

    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """The command runs with -T, without a terminal, which would change bytes in transit."""
        return [*self._adb, "shell", "-T", line(words, variables)]

    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        return self._ask(self.command(words, variables), given, words[0])

    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        with tempfile.TemporaryDirectory() as name:
            for file, source in files.items():
                path = Path(name) / file
                path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
                path.chmod(0o755)  # kept on the way
            self._ask([*self._adb, "push", *(f"{name}/{file}" for file in files), f"{folder}/"], b"", "push")

    @property
    def _adb(self) -> list[str]:
        return ["adb", "-s", self.url.removeprefix("adb://")]

    def _ask(self, command: Sequence[str], given: bytes, what: str) -> str:
        code, printed, said = ask(self.url, command, given, what, "adb")
        if code == 0:
            return printed
        why = said[-1] if said else f"exit code {code}"
        if any(line.startswith(("error: ", "adb: device ")) for line in said):  # adb's own
            raise RuntimeUnavailable(
                f"{self.url} can't be reached: {why}. Make sure that `adb devices` lists it as `device`",
                code="unreachable",
                name=self.url,
            )
        raise RuntimeUnavailable(f"{what!r} failed on {self.url}: {why}", code="failed-there", name=self.url)


class AdbBoard(Board):
    """An Android device that is connected to this machine."""

    scheme = "adb"
    usage = "adb://serial"
    summary = f"an Android device that `adb devices` lists, by a runner that {RUNNER} names"
    targets = ("executorch",)
    not_yet_run_on = "Android hardware"

    def __init__(self, name: str) -> None:
        if not _ADDRESS.fullmatch(name):
            raise self.malformed(name, "write `adb://serial`, with a serial from `adb devices`")
        self.url = name.rstrip("/")
        self.transport = Adb(self.url)

    @classmethod
    def check(cls) -> Missing | None:
        return None if shutil.which("adb") else Missing("there is no adb on the path", "apt-get install adb")

    @classmethod
    def found(cls) -> str:
        answer = subprocess.run(["adb", "version"], capture_output=True, text=True, check=False)
        number = answer.stdout.strip().splitlines()[:1]
        return f"{number[0] if number else 'adb'}: what `adb devices` lists is a device"

    @classmethod
    def incomplete(cls) -> Missing | None:
        if os.environ.get(RUNNER):
            return None
        return Missing(f"the environment variable {RUNNER} does not say where a runner built for Android is")

    def runtimes(self) -> Sequence[OnBoard]:
        return [OnBoard("executorch", "executorch", self, _supplied)]


def _supplied(board: Board) -> Program:
    """Installs the user's own build of the runner: the wheel's libraries need another C library than Android's."""
    path = os.environ.get(RUNNER)
    if not path:
        raise RuntimeUnavailable(
            f"Android runs only what its NDK built: build {build.NATIVE / 'runner.cpp'} with it, as "
            f"docs/how-to/devices.md says, and set {RUNNER} to the program",
            code="missing",
            name=RUNNER,
        )
    if not Path(path).is_file():
        raise RuntimeUnavailable(f"{RUNNER} is {path}, and there is no such file", code="missing", path=path)
    board.put({"runner": Path(path)})
    return Program((f"{board.folder}/runner",), {}, "native runner")
