"""What this machine is called."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from dwindle.bench.result import Machine


def this_machine() -> Machine:
    """The CPU's model, its cores and the system."""
    return Machine(_cpu_name(), os.cpu_count() or 1, f"{platform.system()} {platform.release()}")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
