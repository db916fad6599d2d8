"""The native programs that bench needs, compiled once from `native/` and kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dwindle.bench.missing import Missing
from dwindle.errors import RuntimeUnavailable
from dwindle.files import staged, user_cache

NATIVE = Path(__file__).parent / "native"

# What ExecuTorch's own lib/cmake/executorch/executorch-config.cmake asks of programs that link its libraries.
_DEFINITIONS = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED", "ET_USE_THREADPOOL")
_C10 = "include/executorch/runtime/core/portable_type/c10"
_LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
    "executorch_etdump",
)


def runner(compiler: str = "g++", package: Path | None = None) -> Path:
    """The native ExecuTorch runner (see native/runner.cpp), linked to the libraries of an executorch wheel.

    `package` is the unpacked wheel's `executorch` folder, by default the installed one; `compiler` makes
    programs for that wheel's machine. Raises RuntimeUnavailable where there is no compiler, or no libraries.
    """
    package = package or installed()
    folder = package / "lib"
    if not (folder / "libexecutorch.so").exists():
        raise RuntimeUnavailable(
            f"executorch {version('executorch')} has no Linux libraries in {folder}: the native runner "
            "needs the wheel from PyPI, 1.5 or newer, on Linux"
        )
    return _compiled(
        "runner",
        compiler,
        [NATIVE / "runner.cpp"],
        [
            "-std=c++17",
            "-O2",
            "-Wall",
            f'-DEXECUTORCH_VERSION="{version("executorch")}"',
            *(f"-D{name}" for name in _DEFINITIONS),
            *("-isystem", str(package / "include"), "-isystem", str(package / _C10)),
            f"-L{folder}",
            f"-Wl,-rpath,{folder}:$ORIGIN",  # or beside it, where both were copied to a device
            "-Wl,--no-as-needed",  # kernels and delegates register themselves; nothing here refers to them
            *(f"-l{name}" for name in _LIBRARIES),
            "-ldl",
        ],
    )


def counter() -> Path:
    """The plugin that has qemu count instructions (see native/insn_count.c)."""
    flags = ["-std=c11", "-O2", "-Wall", "-shared", "-fPIC", "-fvisibility=hidden"]
    return _compiled("libinsn_count.so", "gcc", [NATIVE / "insn_count.c"], flags)


def libraries(package: Path) -> list[Path]:
    """The libraries that a runner needs beside it on another machine, apart from the C++ library of every Linux."""
    return [package / "lib" / f"lib{name}.so" for name in _LIBRARIES]


def installed() -> Path:
    """The `executorch` folder of the wheel that is installed here; raises RuntimeUnavailable where none is."""
    spec = find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise Missing("the package executorch is not installed", "pip install executorch").error("executorch")
    return Path(next(iter(spec.submodule_search_locations)))


def _compiled(name: str, compiler: str, sources: Sequence[Path], flags: Sequence[str]) -> Path:
    """The program, from the cache where its sources, flags and compiler were the same."""
    if sys.platform != "linux":
        raise RuntimeUnavailable(f"the native {name} is for Linux, and this is {sys.platform}")
    if not shutil.which(compiler):
        reason = f"{compiler} is not installed, and the native {name} is compiled with it"
        raise Missing(reason, f"apt-get install {compiler}").error()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    key = hashlib.sha256("\0".join([version.stdout, *flags]).encode())
    for file in sorted(NATIVE.iterdir()):  # headers too
        key.update(file.read_bytes() if file.is_file() else b"")
    program = user_cache() / "native" / key.hexdigest()[:16] / name
    if program.exists():
        return program
    with staged(program) as scratch:
        command = [compiler, *map(str, sources), "-o", str(scratch), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise RuntimeUnavailable(f"{compiler} does not compile the native {name}: {complaints[0]}")
    return program
