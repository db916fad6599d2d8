"""What is here to work with, and the command that adds what isn't."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.devices.device import Device
from dwindle.bench.devices.registry import device_kind, device_kinds
from dwindle.bench.launch import python_code
from dwindle.bench.run import Progress
from dwindle.bench.runtimes.runtime import Runtime, all_runtimes
from dwindle.errors import RuntimeUnavailable
from dwindle.registry import unknown_name

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from rich.table import Table

GROUPS = ("package", "runtime", "device", "extra")
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
    """What is missing, in words; where `found` says what is there, for a part of it."""
    command: str | None = None
    """The shell command that adds it, where one can."""
    not_yet_run_on: str | None = None
    """The hardware that this was written for and has not met: it is experimental."""


def examine() -> list[Finding]:
    """Everything dwindle can use, by group. Imports every runtime's library, each in a process of its own."""
    return [*_packages(), *map(_runtime, all_runtimes()), *map(_device, device_kinds()), *_extras()]


def lacking(findings: list[Finding]) -> RuntimeUnavailable | None:
    """What is wrong if a package that every installation has is missing or too old."""
    absent = [finding for finding in findings if finding.group == "package" and finding.found is None]
    if not absent:
        return None
    commands = "; ".join(finding.command for finding in absent if finding.command)
    return RuntimeUnavailable(f"{', '.join(finding.name for finding in absent)} cannot be used: {commands}")


def setup(device: str, progress: Progress) -> Path:
    """Prepares this machine for a device, by the beginning of its names, and returns the folder that was made.

    Raises UsageError for a device that needs no preparation, RuntimeUnavailable naming what is missing for it,
    DwindleError where a download fails.
    """
    able = [kind.scheme for kind in device_kinds() if kind.setup_downloads]
    if device not in able:
        raise unknown_name("device to set up", device, able, option="setup")
    return device_kind(device).setup(progress)


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
            if finding.not_yet_run_on:
                why.append(f"experimental: it has not been run on {finding.not_yet_run_on}")
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
        packages = list(dict.fromkeys(_package("extra", requirement) for requirement in _requirements(extra)))
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
            if requirement.name == "dwindle":  # an extra that brings others
                yield from (inner for other in sorted(requirement.extras) for inner in _requirements(other))
            else:
                yield requirement


def _runtime(runtime: Runtime) -> Finding:
    if missing := runtime.check():
        return Finding("runtime", runtime.name, None, missing.reason, missing.command)
    code = f"from dwindle.bench.runtimes.runtime import load; print(load({runtime.name!r}).version())"
    ran = subprocess.run(python_code(code), capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"]
        return Finding("runtime", runtime.name, None, f"it cannot be imported: {said[-1]}")
    number = ran.stdout.strip().splitlines()[-1]
    through = runtime.launch(Path("net"), 1).through
    found = f"{number} for {runtime.target} files"
    return Finding("runtime", runtime.name, f"{found}, {through}" if through else found)


def _device(kind: type[Device]) -> Finding:
    missing = kind.check()
    found = None if missing else kind.found()
    lacks = missing or kind.incomplete()
    reason, command = (lacks.reason, lacks.command) if lacks else (None, None)
    return Finding("device", kind.scheme, found, reason, command, kind.not_yet_run_on)
