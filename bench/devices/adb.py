"""An Android device, through the user's own `adb`: whatever `adb devices` lists as `device`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwindle.bench.devices.transport import ask, line
from dwindle.errors import RuntimeUnavailable, UsageError

SCHEME = "adb://"
_ADDRESS = re.compile(r"adb://(?!-)[\w.:-]+/?")


@dataclass(frozen=True)
class Adb:
    """The way to `adb://serial`, where the serial is as `adb devices` has it."""

    url: str
    scratch = "/data/local/tmp"
    """The one folder that adb's shell may both write and run programs in."""

    @classmethod
    def to(cls, url: str) -> Adb:
        """Raises UsageError unless that is what `url` looks like."""
        if not _ADDRESS.fullmatch(url):
            raise UsageError(f"{url!r} is no device: write adb://serial, with a serial from `adb devices`")
        return cls(url.rstrip("/"))

    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """See Transport. -T: no terminal, which would change bytes on their way."""
        return [*self._adb, "shell", "-T", line(words, variables)]

    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        """See Transport."""
        return self._ask(self.command(words, variables), given, words[0])

    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        """See Transport."""
        with tempfile.TemporaryDirectory() as name:
            for file, source in files.items():
                path = Path(name) / file
                path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
                path.chmod(0o755)  # kept on the way
            self._ask([*self._adb, "push", *(f"{name}/{file}" for file in files), f"{folder}/"], b"", "push")

    @property
    def _adb(self) -> list[str]:
        return ["adb", "-s", self.url.removeprefix(SCHEME)]

    def _ask(self, command: Sequence[str], given: bytes, what: str) -> str:
        code, printed, said = ask(self.url, command, given, what, "adb")
        if code == 0:
            return printed
        why = said[-1] if said else f"exit code {code}"
        if any(line.startswith(("error: ", "adb: device ")) for line in said):  # adb's own
            raise RuntimeUnavailable(f"{self.url} can't be reached: {why}; `adb devices` must list it as device")
        raise RuntimeUnavailable(f"{what!r} failed on {self.url}: {why}")
