"""An emulated ARM64 CPU as a device: it counts the instructions of an inference, and measures no times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.devices import sysroot
from dwindle.bench.devices.device import Device, parity_failure
from dwindle.bench.missing import Missing
from dwindle.bench.result import Bench
from dwindle.errors import DwindleError, RuntimeUnavailable

if TYPE_CHECKING:
    from dwindle.bench.run import Run


class Arm64(Device):
    """A Cortex-A76 by qemu-user. It fills in `Row.cost` of the rows that this machine has of the same files."""

    scheme = "arm64"
    usage = "arm64"
    summary = "ARM64 instructions of one inference, counted by an emulator: not a time"
    targets = tuple(sysroot.TARGETS)
    times = False
    options = frozenset({"sparse"})
    setup_downloads = "100 MB from Debian and PyPI"

    @classmethod
    def check(cls) -> Missing | None:
        return sysroot.missing()

    @classmethod
    def found(cls) -> str:
        wheels = ", ".join(f"{name} {number}" for name, number in sysroot.wheels().items())
        return f"{sysroot.CPU} under qemu-user, with {wheels}"

    @classmethod
    def setup(cls, progress: Callable[[str], None]) -> Path:
        return sysroot.setup(progress)

    def measure(self, run: Run, bench: Bench) -> Bench:
        """Counts every file that its runtimes run; what is counted is kept after each, as one may take minutes."""
        from dwindle.bench.cost import Counting

        others = [row for row in bench.rows if row.runtime.device]
        counting = Counting(run.root, run.sample, run.network_macs, run.tolerances, run.sparse, run.progress)
        rows = counting.filled(
            [row for row in bench.rows if not row.runtime.device],
            lambda found: run.keep(replace(bench, rows=(*found, *others))),
        )
        return replace(bench, rows=(*rows, *others))

    def failure(self, bench: Bench) -> DwindleError | None:
        """The error where a file has no cost, or computes something else there; None where all is well."""
        from dwindle.bench.cost import is_counted

        for row in bench.rows:
            if row.runtime.device or not is_counted(row):
                continue
            if row.cost is None:
                return RuntimeUnavailable(
                    f"no ARM64 cost of {row.artifact.path}: {row.reasons['cost']}",
                    code="unmeasured",
                    name=self.url,
                    path=row.artifact.path,
                )
            difference = row.cost.relative
            if difference is not None and (wrong := parity_failure(row, self.url, difference, row.cost.tolerance)):
                return wrong
        return None
