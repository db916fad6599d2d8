"""This machine as a device: times by every registered runtime, and the costs that other devices add to its rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dwindle
from dwindle.bench.devices.device import Device
from dwindle.bench.machine import this_machine
from dwindle.bench.missing import Missing
from dwindle.bench.result import HOST, Bench, Row
from dwindle.errors import DwindleError, UsageError

if TYPE_CHECKING:
    from dwindle.bench.run import Run
    from dwindle.bench.runtimes.runtime import Launcher


class Host(Device):
    """The machine that runs `dwindle bench`."""

    scheme = HOST
    usage = HOST
    summary = "this machine, by every runtime that is installed"
    options = frozenset({"profile"})

    @classmethod
    def check(cls) -> Missing | None:
        return None

    @classmethod
    def found(cls) -> str:
        here = this_machine()
        return f"{here.cpu}, {here.cores} cores, {here.system}" + cls._training()

    @classmethod
    def incomplete(cls) -> Missing | None:
        try:
            import torch  # noqa: F401
        except (ImportError, OSError) as error:  # the latter for a library that it wants and doesn't find
            return Missing(f"PyTorch cannot be imported, so nothing trains: {error}")
        return None

    @classmethod
    def _training(cls) -> str:
        """How networks train here; empty where they can't."""
        if cls.incomplete():
            return ""
        import torch

        from dwindle.models.precision import bf16_gains

        trains = "bfloat16" if bf16_gains(torch.device("cpu")) else "float32"
        threads = f"training threads: {torch.get_num_threads()}"
        return f"; {threads}, in {trains}, which was measured to be the faster"

    def require_threads(self, threads: int) -> None:
        cores = os.cpu_count() or 1
        if threads > cores:
            raise UsageError(
                f"`threads` is {threads}, and this machine has {cores} cores: give {cores} at most",
                code="out-of-range",
                option="threads",
            )

    def runtimes(self) -> Sequence[Launcher]:
        from dwindle.bench.runtimes.runtime import all_runtimes

        return all_runtimes()

    def measure(self, run: Run, bench: Bench) -> Bench:
        """Measures every file in every runtime; the costs that were counted of the same files stay in the rows."""
        from dwindle.bench.cost import carried
        from dwindle.bench.profile import with_profile

        made = datetime.now(UTC).isoformat("T", "seconds")
        here = [row for row in bench.rows if not row.runtime.device]
        others = [row for row in bench.rows if row.runtime.device]
        rows = carried(self._rows(run), here, run.root)
        if run.profile:
            rows = with_profile(rows, run.root, run.sample, run.progress)
        return Bench((*rows, *others), self.machine, run.seed, made, dwindle.__version__, run.network)

    def failure(self, bench: Bench) -> DwindleError | None:
        """Always None: a runtime that isn't installed here is no failure, and the rows say what was not measured."""
        return None

    def _rows(self, run: Run) -> list[Row]:
        from dwindle.bench.pair import Place, measured_pair
        from dwindle.bench.rows import untried

        runtimes, rows = self.runtimes(), []
        for blank in run.blank_pairs():
            target = blank[0].target
            fitting = [runtime for runtime in runtimes if runtime.target == target]
            if not fitting:
                rows += [untried(row, f"no runtime is registered for {target}") for row in blank]
            for runtime in fitting:
                rows += measured_pair(run, runtime, blank, Place())
        return rows
