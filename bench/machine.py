"""This machine: what it is, and how busy it is at a moment."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from dwindle.bench.result import Machine


@dataclass(frozen=True)
class Reading:
    """How busy a machine is at one moment, as its kernel counts it."""

    stalled: float
    """Seconds since the machine started in which some runnable task had no CPU; NaN where the kernel doesn't say."""
    load: float
    """The one-minute load average: how many cores' worth of tasks ran or waited to run."""


def this_machine() -> Machine:
    """The CPU's model, its cores and the system."""
    return Machine(_cpu_name(), os.cpu_count() or 1, f"{platform.system()} {platform.release()}")


def busy_here() -> Reading:
    """How busy this machine is now."""
    try:
        pressure = Path("/proc/pressure/cpu").read_text(encoding="utf-8")
    except OSError:
        pressure = ""
    return reading(str(os.getloadavg()[0]), pressure)


def reading(loads: str, pressure: str) -> Reading:
    """A Reading from the text of /proc/loadavg and of /proc/pressure/cpu, of which the latter may be empty.

    Its format is in the kernel's Documentation/accounting/psi.rst.
    """
    total = pressure.partition("total=")[2].split()
    return Reading(int(total[0]) / 1e6 if total else math.nan, float(loads.split()[0]))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
