"""A device behind a connection: what it is, what else it is doing, and the runtimes that measure files on it.

Everything goes into one folder of the device's that is removed in the end; nothing is installed there.
"""

from __future__ import annotations

import contextlib
import io
import platform
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import dwindle
from dwindle.bench import build, sysroot
from dwindle.bench.result import Machine
from dwindle.bench.runtime import GROUP, Launch
from dwindle.bench.ssh import Ssh
from dwindle.errors import DwindleError, RuntimeUnavailable

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

# Six lines: system, machine, release, cores, and the CPU's or the board's name as whoever knows it calls it. ARM
# kernels don't name the CPU in /proc/cpuinfo.
_FACTS = """
uname -s; uname -m; uname -r; getconf _NPROCESSORS_ONLN
{ tr -d '\\0' </proc/device-tree/model || sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo; } 2>/dev/null | head -n 1
"""
_BUSY = "cat /proc/loadavg; cat /proc/pressure/cpu 2>/dev/null || :"
_FOLDER = 'mktemp -d "${TMPDIR:-/tmp}/dwindle.XXXXXXXX"'


class Board:
    """A reachable device. A context manager: entering connects, leaving removes what was copied there."""

    targets = ("executorch", "onnx")

    def __init__(self, url: str) -> None:
        """Raises UsageError for what is no address."""
        self.way = Ssh.to(url)
        self.url = self.way.url

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where it can't be reached, or is no Linux machine."""
        facts = self._sh(_FACTS).splitlines()
        if not facts or facts[0] != "Linux":
            raise RuntimeUnavailable(f"{self.url} runs {facts[0] if facts else 'nothing known'}, and it takes Linux")
        system, self.architecture, release, cores, *name = [line.strip() for line in facts]
        cpu = name[0] if name and name[0] else self.architecture
        self.machine = Machine(cpu, int(cores) if cores.isdigit() else 1, f"{system} {release}")
        self.folder = self._sh(_FOLDER).strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DwindleError):  # it may be gone
            self.way.run(["rm", "-rf", "--", self.folder])

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        self.way.put(files, self.folder)

    def busy(self) -> Reading:
        """What its kernel says of all that runs there."""
        from dwindle.bench.measure import reading

        load, *pressure = self._sh(_BUSY).splitlines()
        return reading(load, "\n".join(pressure))

    def runtimes(self) -> list[There]:
        return [There("executorch", "executorch", self, _native), There("onnxruntime", "onnx", self, _python)]

    def _sh(self, script: str) -> str:
        return self.way.run(["sh", "-c", script])


@dataclass(frozen=True)
class Program:
    """What answers as worker.py does, on the device; the file and the threads come after its words."""

    words: tuple[str, ...]
    variables: dict[str, str]
    through: str | None


@dataclass
class There:
    """A Runtime on a board."""

    name: str
    target: str
    device: Board
    install: Callable[[Board], Program]
    """Copies the runtime there; raises RuntimeUnavailable where it can't be had for that board."""

    def unavailable(self) -> str | None:
        try:
            self._program  # noqa: B018  copied when first looked at
        except DwindleError as error:
            return str(error)
        return None

    def launch(self, path: Path, threads: int) -> Launch:
        """Copies the file there, and returns what starts a worker on it."""
        name = f"{self.target}-{path.name}"
        self.device.put({name: path})
        words = [*self._program.words, f"{self.device.folder}/{name}", str(threads)]
        variables = {**self._program.variables, "OMP_NUM_THREADS": str(threads)}
        return Launch(self.device.way.command(words, variables), self._program.through)

    @cached_property
    def _program(self) -> Program:
        return self.install(self.device)


def _native(board: Board) -> Program:
    """ExecuTorch's runner with the libraries of the wheel for that machine, which come to 14 MB."""
    if board.architecture == platform.machine():
        package, compiler = build.installed(), "g++"
    elif board.architecture == "aarch64":
        if reason := sysroot.unavailable():
            raise RuntimeUnavailable(f"an aarch64 runner is built from what {sysroot.SETUP} downloads, and {reason}")
        package, compiler = sysroot.root() / "site" / "executorch", "aarch64-linux-gnu-g++"
    else:
        raise RuntimeUnavailable(
            f"{board.url} is {board.architecture}, and a runner can be built for {platform.machine()} and aarch64"
        )
    runner = build.runner(compiler, package)
    board.put({"runner": runner, **{library.name: library for library in build.libraries(package)}})
    return Program((f"{board.folder}/runner",), {}, "native runner")


def _python(board: Board) -> Program:
    """onnxruntime in the board's own Python, driven by this very package from a zip."""
    board.put({"dwindle.zip": _package()})
    python, variables = ("python3", "-P"), {"PYTHONPATH": f"{board.folder}/dwindle.zip"}
    importing = "from dwindle.bench import runtime, worker; runtime.load('onnxruntime').version()"
    try:
        board.way.run([*python, "-c", importing], variables=variables)
    except RuntimeUnavailable as error:
        raise RuntimeUnavailable(
            f"{error}; onnx files take Python 3.11 or newer there, as python3, with onnxruntime and numpy"
        ) from error
    return Program((*python, "-m", "dwindle.bench.worker", "onnxruntime"), variables, None)


def _package() -> bytes:
    """What the worker needs of dwindle, and the entry point by which it finds its runtime."""
    packed, top = io.BytesIO(), Path(dwindle.__file__).parent
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for prefix, folder in (("dwindle", top), ("dwindle/bench", Path(__file__).parent)):
            for file in sorted(folder.glob("*.py")):
                archive.write(file, f"{prefix}/{file.name}")
        described = f"dwindle-{dwindle.__version__}.dist-info"
        archive.writestr(
            f"{described}/METADATA", f"Metadata-Version: 2.1\nName: dwindle\nVersion: {dwindle.__version__}\n"
        )
        archive.writestr(
            f"{described}/entry_points.txt", f"[{GROUP}]\nonnxruntime = dwindle.bench.runtimes:OnnxRuntime\n"
        )
    return packed.getvalue()
