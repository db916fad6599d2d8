"""Another machine that has an ssh server, through the user's own `ssh`: their keys, their config, their known hosts."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwindle.bench.devices.transport import ask, line
from dwindle.errors import RuntimeUnavailable, UsageError

SCHEME = "ssh://"

# Never ask; notice within 20 seconds that the other side is gone, also where no packet says so (man ssh_config).
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
# A name beginning with a dash would be an option to some programs on the way.
_NAME = r"(?!-)[\w.-]+"
_ADDRESS = re.compile(rf"ssh://({_NAME}@)?({_NAME}|\[[0-9A-Fa-f:.]+\])(:\d{{1,5}})?/?")
_OWN_FAILURE = 255
"""ssh's exit code where it is not the command's."""


@dataclass(frozen=True)
class Ssh:
    """The way to `ssh://[user@]host[:port]`, where host may be a name from the user's ssh config."""

    url: str
    scratch = "${TMPDIR:-/tmp}"

    @classmethod
    def to(cls, url: str) -> Ssh:
        """Raises UsageError unless that is what `url` looks like."""
        if not _ADDRESS.fullmatch(url):
            raise UsageError(f"{url!r} is no device: write ssh://user@host or ssh://user@host:port")
        return cls(url.rstrip("/"))

    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """See Transport."""
        options = [part for option in _OPTIONS for part in ("-o", option)]
        return ["ssh", "-T", *options, "--", self.url, line(words, variables)]

    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        """See Transport."""
        code, printed, said = ask(self.url, self.command(words, variables), given, words[0], "openssh-client")
        if code == _OWN_FAILURE:
            why = said[-1].rstrip(".") if said else "ssh does not say why"
            raise RuntimeUnavailable(f"{self.url} can't be reached: {why}; `ssh {self.url}` must log in unasked")
        if code:
            why = said[-1] if said else f"exit code {code}"
            raise RuntimeUnavailable(f"{words[0]!r} failed on {self.url}: {why}")
        return printed

    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        """See Transport. As a tar, which boards without sftp have too."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, source in files.items():
                content = source if isinstance(source, bytes) else source.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        self.run(["tar", "-xf", "-", "-C", folder], packed.getvalue())
