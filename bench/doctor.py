"""What is here to work with, and the command that adds what isn't."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.devices import apple, cuda, qualcomm, sysroot, web
from dwindle.bench.devices.board import RUNNER
from dwindle.bench.machine import this_machine
from dwindle.bench.runtime import Runtime, all_runtimes, launch
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.registry import unknown

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.table import Table

GROUPS = ("package", "runtime", "device", "extra")
SETUPS: dict[str, Callable[[sysroot.Progress], Path]] = {
    "arm64": sysroot.setup,
    "browser": web.setup,
    "qualcomm": qualcomm.setup,
}
"""Devices that can be set up."""
_FOR_DEVELOPMENT = "dev"


@dataclass(frozen=True)
class Finding:
    """One thing that dwindle can use."""

    group: str
    """One of GROUPS."""
    name: str
    found: str | None
    """What is there, with its version; None where it can't be used."""
    reason: str | None = None
    """Why not, in words."""
    command: str | None = None
    """What adds it, where a command can."""


def examine() -> list[Finding]:
    """Everything dwindle can use, by group. Imports every runtime's library, each in a process of its own."""
    devices = [_host(), _cuda(), _arm64(), _browser(), _ssh(), _adb(), _apple(), _qualcomm()]
    return [*_packages(), *map(_runtime, all_runtimes()), *devices, *_extras()]


def lacking(findings: list[Finding]) -> RuntimeUnavailable | None:
    """What is wrong if a package that every installation has is missing or too old."""
    absent = [finding for finding in findings if finding.group == "package" and finding.found is None]
    if not absent:
        return None
    commands = "; ".join(finding.command for finding in absent if finding.command)
    return RuntimeUnavailable(f"{', '.join(finding.name for finding in absent)} cannot be used: {commands}")


def setup(device: str, progress: sysroot.Progress) -> Path:
    """Prepares a device and returns where it lies.

    Raises UsageError for one that can't be prepared, RuntimeUnavailable naming the host's packages that are
    missing, DwindleError where a download fails.
    """
    if device not in SETUPS:
        raise UsageError(unknown("device to set up", device, list(SETUPS)))
    return SETUPS[device](progress)


def doctor_table(findings: list[Finding]) -> Table:
    """A row per finding: what is there, or why not and what adds it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for group in GROUPS:
        found = [finding for finding in findings if finding.group == group]
        if found:
            table.add_row(Text(f"{group}s", style="bold"), "")
        for finding in found:
            if finding.found:
                table.add_row(f"  {finding.name}", Text(finding.found))
            why = [finding.reason, f"→ {finding.command}" if finding.command else None]
            if said := "\n".join(line for line in why if line):
                table.add_row("" if finding.found else f"  {finding.name}", Text(said, style="yellow"))
    return table


def _packages() -> Iterator[Finding]:
    yield Finding("package", "dwindle", version("dwindle"))
    yield Finding("package", "python", platform.python_version())
    for requirement in _requirements(None):
        yield _package("package", requirement)


def _package(group: str, requirement: Requirement) -> Finding:
    command = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        number = version(requirement.name)
    except PackageNotFoundError:
        return Finding(group, requirement.name, None, "not installed", command)
    if not requirement.specifier.contains(number, prereleases=True):
        why = f"{number} is installed, and dwindle needs {requirement.specifier}"
        return Finding(group, requirement.name, None, why, command)
    return Finding(group, requirement.name, number)


def _extras() -> Iterator[Finding]:
    for extra in metadata("dwindle").get_all("Provides-Extra") or []:
        if extra == _FOR_DEVELOPMENT:
            continue
        packages = [_package("extra", requirement) for requirement in _requirements(extra)]
        absent = [package for package in packages if package.found is None]
        if absent:
            why = "; ".join(f"{package.name}: {package.reason}" for package in absent)
            yield Finding("extra", extra, None, why, f'pip install "dwindle[{extra}]"')
        else:
            yield Finding("extra", extra, ", ".join(f"{package.name} {package.found}" for package in packages))


def _requirements(extra: str | None) -> Iterator[Requirement]:
    """What every installation needs, or what an extra adds to that."""
    from packaging.requirements import Requirement

    for line in requires("dwindle") or []:
        marker = (requirement := Requirement(line)).marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if extra is None else marker and not always and marker.evaluate({"extra": extra}):
            yield requirement


def _runtime(runtime: Runtime) -> Finding:
    if reason := runtime.unavailable():
        return Finding("runtime", runtime.name, None, reason)
    code = f"from dwindle.bench import runtime; print(runtime.load({runtime.name!r}).version())"
    asked = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        return Finding("runtime", runtime.name, None, f"it cannot be imported: {said[-1]}")
    number = asked.stdout.strip().splitlines()[-1]
    through = launch(runtime, Path("net"), 1).through
    found = f"{number} for {runtime.target} files"
    return Finding("runtime", runtime.name, f"{found}, {through}" if through else found)


def _host() -> Finding:
    here = this_machine()
    found = f"{here.cpu}, {here.cores} cores, {here.system}"
    try:
        import torch

        from dwindle.models.precision import bf16_gains
    except (ImportError, OSError) as error:  # the latter for a library that it wants and doesn't find
        return Finding("device", "host", found, f"PyTorch cannot be imported, so nothing trains: {error}")
    trains = "bfloat16" if bf16_gains(torch.device("cpu")) else "float32"
    threads = f"training threads: {torch.get_num_threads()}"
    return Finding("device", "host", f"{found}; {threads}, in {trains}, which was measured to be the faster")


def _cuda() -> Finding:
    if reason := cuda.unavailable():
        return Finding("device", "cuda", None, reason)
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    lacking = [f"{one.name}: {why}" for one in cuda.every(cuda.Cuda()) if (why := one.unavailable())]
    return Finding("device", "cuda", ", ".join(names), "; ".join(lacking) or None)


def _arm64() -> Finding:
    reason = sysroot.unavailable()
    if reason is None:
        wheels = ", ".join(f"{name} {number}" for name, number in sysroot.wheels().items())
        return Finding("device", "arm64", f"{sysroot.CPU} under qemu-user, with {wheels}")
    return _without("arm64", reason)


def _browser() -> Finding:
    if reason := web.unavailable():
        return _without("browser", reason)
    packages = ", ".join(f"{package.name} {package.version}" for package in web.PACKAGES)
    return Finding("device", "browser", f"{web.browser_version()}, with {packages}")


def _ssh() -> Finding:
    if not shutil.which("ssh"):
        return Finding("device", "ssh", None, "there is no ssh on the path", "apt-get install openssh-client")
    asked = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    return Finding("device", "ssh", f"{asked.stderr.strip()}: any machine that it logs in to unasked is a device")


def _adb() -> Finding:
    if not shutil.which("adb"):
        return Finding("device", "adb", None, "there is no adb on the path", "apt-get install adb")
    asked = subprocess.run(["adb", "version"], capture_output=True, text=True, check=False)
    number = asked.stdout.strip().splitlines()[:1]
    found = f"{number[0] if number else 'adb'}: what `adb devices` lists is a device"
    runner = None if os.environ.get(RUNNER) else f"{RUNNER} does not say where a runner built for Android is"
    return Finding("device", "adb", found, runner)


def _apple() -> Finding:
    if reason := apple.unavailable():
        return Finding("device", "apple", None, f"{reason}; has not been run on Apple hardware")
    return Finding("device", "apple", f"{apple.SCHEME}{apple.MAC}, and what is connected to it")


def _qualcomm() -> Finding:
    if reason := qualcomm.unavailable():
        why, _, command = reason.rpartition(": run ")
        return Finding("device", "qualcomm", None, f"{why}; has not been run on Qualcomm hardware", command)
    return Finding("device", "qualcomm", f"{qualcomm.CLIENT}: what its `list-devices` prints is a device")


def _without(device: str, reason: str) -> Finding:
    """From `why: command` or `why: run command`, as those who set devices up say it."""
    why, _, command = reason.rpartition(": ")
    return Finding("device", device, None, why or reason, command.removeprefix("run ") if why else None)
