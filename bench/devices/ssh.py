"""Another machine that has an ssh server, through the user's own `ssh`: their keys, their config, their known hosts."""

from __future__ import annotations

import io
import platform
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dwindle
from dwindle.bench import build
from dwindle.bench.devices import sysroot
from dwindle.bench.devices.board import Board, OnBoard, Program
from dwindle.bench.devices.transport import Transport, ask, line
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.mnn import MNN
from dwindle.bench.runtimes.onnxruntime import OnnxRuntime
from dwindle.bench.runtimes.runtime import GROUP, Runtime
from dwindle.errors import RuntimeUnavailable

# Never ask; notice within 20 seconds that the other side is gone, also where no packet says so (man ssh_config).
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
# A name beginning with a dash would be an option to some of the programs that it passes through.
_NAME = r"(?!-)[\w.-]+"
_ADDRESS = re.compile(rf"ssh://({_NAME}@)?({_NAME}|\[[0-9A-Fa-f:.]+\])(:\d{{1,5}})?/?")
_OWN_FAILURE = 255
"""The exit code of a failure of ssh itself, as opposed to the command's."""


@dataclass(frozen=True)
class Ssh(Transport):
    """Reaches `ssh://[user@]host[:port]`, where host may be a name from the user's ssh config."""

    url: str
    scratch = "${TMPDIR:-/tmp}"

    def command(self, words: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        options = [part for option in _OPTIONS for part in ("-o", option)]
        return ["ssh", "-T", *options, "--", self.url, line(words, variables)]

    def run(self, words: Sequence[str], given: bytes = b"", variables: Mapping[str, str] | None = None) -> str:
        code, printed, said = ask(self.url, self.command(words, variables), given, words[0], "openssh-client")
        if code == _OWN_FAILURE:
            why = said[-1].rstrip(".") if said else "ssh does not say why"
            raise RuntimeUnavailable(
                f"{self.url} can't be reached: {why}. Make sure that `ssh {self.url}` logs in without asking for a "
                "password or a host key",
                code="unreachable",
                name=self.url,
            )
        if code:
            why = said[-1] if said else f"exit code {code}"
            raise RuntimeUnavailable(f"{words[0]!r} failed on {self.url}: {why}", code="failed-there", name=self.url)
        return printed

    def put(self, files: Mapping[str, Path | bytes], folder: str) -> None:
        """Copies files as a tar, which boards without sftp take too."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, source in files.items():
                content = source if isinstance(source, bytes) else source.read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        self.run(["tar", "-xf", "-", "-C", folder], packed.getvalue())


class SshBoard(Board):
    """Any Linux machine that the user's own ssh logs in to without asking."""

    scheme = "ssh"
    usage = "ssh://user@host[:port]"
    summary = "a Linux machine that your ssh logs in to without asking"
    targets = ("executorch", "onnx", "mnn")

    def __init__(self, name: str) -> None:
        if not _ADDRESS.fullmatch(name):
            raise self.malformed(name, "write `ssh://user@host` or `ssh://user@host:port`")
        self.url = name.rstrip("/")
        self.transport = Ssh(self.url)

    @classmethod
    def check(cls) -> Missing | None:
        return None if shutil.which("ssh") else Missing("there is no ssh on the path", "apt-get install openssh-client")

    @classmethod
    def found(cls) -> str:
        answer = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
        return f"{answer.stderr.strip()}: any Linux machine that it logs in to without asking is a device"

    def runtimes(self) -> Sequence[OnBoard]:
        return [
            OnBoard("executorch", "executorch", self, _native),
            OnBoard("onnxruntime", "onnx", self, _python(OnnxRuntime, "onnxruntime")),
            OnBoard("mnn", "mnn", self, _python(MNN, "MNN")),
        ]


def _native(board: Board) -> Program:
    """ExecuTorch's runner with the libraries of the wheel for that machine, which come to 14 MB."""
    if board.architecture == platform.machine():
        package, compiler = build.installed(), "g++"
    elif board.architecture == "aarch64":
        if missing := sysroot.missing():
            raise RuntimeUnavailable(
                f"{board.url} is an aarch64 machine, and a runner for it is built from the ARM64 emulation's files: "
                f"{missing}",
                code="missing",
                name=board.url,
            )
        package, compiler = sysroot.root() / "site" / "executorch", "aarch64-linux-gnu-g++"
    else:
        raise RuntimeUnavailable(
            f"{board.url} is a {board.architecture} machine, and a runner can be built for {platform.machine()} and "
            "aarch64 only",
            code="unknown-architecture",
            name=board.url,
        )
    runner = build.runner(compiler, package)
    board.put({"runner": runner, **{library.name: library for library in build.libraries(package)}})
    return Program((f"{board.folder}/runner",), {}, "native runner")


def _python(runtime: type[Runtime], package: str) -> Callable[[Board], Program]:
    """A runtime in the board's own Python, driven by this very package from a zip.

    package: what has to be installed there, beside numpy.
    """

    def install(board: Board) -> Program:
        archive = f"dwindle-{runtime.name}.zip"
        board.put({archive: _package(runtime)})
        python, variables = ("python3", "-P"), {"PYTHONPATH": f"{board.folder}/{archive}"}
        importing = f"from dwindle.bench.worker import load; load('{runtime.name}').version()"
        try:
            board.transport.run([*python, "-c", importing], variables=variables)
        except RuntimeUnavailable as error:
            raise RuntimeUnavailable(
                f"{error}; {runtime.target} files need Python 3.11 or newer there, called python3, with {package} and "
                "numpy",
                code=error.code,
                name=board.url,
            ) from error
        return Program((*python, "-m", "dwindle.bench.worker", runtime.name), variables, None)

    return install


def _package(runtime: type[Runtime]) -> bytes:
    """A zip of what the worker needs of dwindle, and the entry point by which it finds its runtime."""
    packed, top = io.BytesIO(), Path(dwindle.__file__).parent
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        bench = Path(build.__file__).parent
        for prefix, folder, sources in (("dwindle", top, "*.py"), ("dwindle/bench", bench, "**/*.py")):
            for file in sorted(folder.glob(sources)):
                archive.write(file, f"{prefix}/{file.relative_to(folder).as_posix()}")
        described = f"dwindle-{dwindle.__version__}.dist-info"
        archive.writestr(
            f"{described}/METADATA", f"Metadata-Version: 2.1\nName: dwindle\nVersion: {dwindle.__version__}\n"
        )
        ours = f"{runtime.name} = {runtime.__module__}:{runtime.__name__}"
        archive.writestr(f"{described}/entry_points.txt", f"[{GROUP}]\n{ours}\n")
    return packed.getvalue()
