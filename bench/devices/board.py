"""A device behind a connection: what it is, what else it is doing, and the runtimes that measure files on it.

Everything goes into one folder of the device's that is removed in the end; nothing is installed there.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import dwindle
from dwindle.bench import build
from dwindle.bench.devices import sysroot
from dwindle.bench.devices.adb import SCHEME as ADB
from dwindle.bench.devices.adb import Adb
from dwindle.bench.devices.conditions import SCRIPT, conditions, pinning
from dwindle.bench.devices.ssh import Ssh
from dwindle.bench.devices.transport import Transport
from dwindle.bench.result import Machine
from dwindle.bench.runtime import GROUP, Launch
from dwindle.errors import DwindleError, RuntimeUnavailable

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

# Five lines: system, machine, release, cores, and the CPU's or the board's name as whoever knows it calls it. ARM
# kernels don't name the CPU in /proc/cpuinfo.
_FACTS = """
uname -s; uname -m; uname -r; getconf _NPROCESSORS_ONLN 2>/dev/null || nproc
{ getprop ro.product.model || tr -d '\\0' </proc/device-tree/model ||
  sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo; } 2>/dev/null | head -n 1
"""
_BUSY = "cat /proc/loadavg; cat /proc/pressure/cpu 2>/dev/null || :"
RUNNER = "DWINDLE_ANDROID_RUNNER"
"""The variable that says where the user's own Android build of native/runner.cpp is."""


class Board:
    """A reachable device. A context manager: entering connects, leaving removes what was copied there."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for what is no address."""
        self.transport: Transport = Adb.to(url) if url.startswith(ADB) else Ssh.to(url)
        self.url = self.transport.url

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where it can't be reached, or is no Linux machine."""
        facts = self._sh(_FACTS).splitlines()
        if not facts or facts[0] != "Linux":
            raise RuntimeUnavailable(f"{self.url} runs {facts[0] if facts else 'nothing known'}, and it takes Linux")
        system, self.architecture, release, cores, *name = [line.strip() for line in facts]
        cpu = name[0] if name and name[0] else self.architecture
        self._said = self._sh(SCRIPT)
        state = conditions(self._said)
        self.machine = Machine(cpu, int(cores) if cores.isdigit() else 1, f"{system} {release}", state)
        self.folder = self._sh(f'mktemp -d "{self.transport.scratch}/dwindle.XXXXXXXX"').strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DwindleError):  # it may be gone
            self.transport.run(["rm", "-rf", "--", self.folder])

    def put(self, files: Mapping[str, Path | bytes]) -> None:
        self.transport.put(files, self.folder)

    def busy(self) -> Reading:
        """What its kernel says of all that runs there."""
        from dwindle.bench.measure import reading

        load, *pressure = self._sh(_BUSY).splitlines()
        return reading(load, "\n".join(pressure))

    def runtimes(self) -> list[There]:
        if isinstance(self.transport, Adb):
            return [There("executorch", "executorch", self, _supplied)]
        return [There("executorch", "executorch", self, _native), There("onnxruntime", "onnx", self, _python)]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(runtime.target for runtime in self.runtimes())

    def pinned(self, threads: int) -> Sequence[str]:
        """The words before a command that keep it to the fastest cores, where they differ."""
        return pinning(self._said, threads)

    def _sh(self, script: str) -> str:
        return self.transport.run(["sh", "-c", script])


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
        pinned = self.device.pinned(threads)
        words = [*pinned, *self._program.words, f"{self.device.folder}/{name}", str(threads)]
        variables = {**self._program.variables, "OMP_NUM_THREADS": str(threads)}
        through = ", ".join(part for part in (self._program.through, " ".join(pinned)) if part) or None
        return Launch(self.device.transport.command(words, variables), through)

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


def _supplied(board: Board) -> Program:
    """The user's own build of the runner: Android's C library isn't that of the wheel's libraries."""
    path = os.environ.get(RUNNER)
    if not path:
        raise RuntimeUnavailable(
            f"Android runs what its NDK built: build {build.NATIVE / 'runner.cpp'} with it, as README.md says, and set "
            f"{RUNNER} to the program"
        )
    if not Path(path).is_file():
        raise RuntimeUnavailable(f"{RUNNER} is {path}, and there is no such file")
    board.put({"runner": Path(path)})
    return Program((f"{board.folder}/runner",), {}, "native runner")


def _python(board: Board) -> Program:
    """onnxruntime in the board's own Python, driven by this very package from a zip."""
    board.put({"dwindle.zip": _package()})
    python, variables = ("python3", "-P"), {"PYTHONPATH": f"{board.folder}/dwindle.zip"}
    importing = "from dwindle.bench import runtime, worker; runtime.load('onnxruntime').version()"
    try:
        board.transport.run([*python, "-c", importing], variables=variables)
    except RuntimeUnavailable as error:
        raise RuntimeUnavailable(
            f"{error}; onnx files take Python 3.11 or newer there, as python3, with onnxruntime and numpy"
        ) from error
    return Program((*python, "-m", "dwindle.bench.worker", "onnxruntime"), variables, None)


def _package() -> bytes:
    """What the worker needs of dwindle, and the entry point by which it finds its runtime."""
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
        archive.writestr(
            f"{described}/entry_points.txt", f"[{GROUP}]\nonnxruntime = dwindle.bench.runtimes:OnnxRuntime\n"
        )
    return packed.getvalue()
