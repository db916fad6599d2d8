"""The ARM64 cost in this machine's rows: counted, compared with a dense file's, and kept from an earlier bench."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.devices import emulator
from dwindle.bench.devices.sysroot import TARGETS
from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.reference import apart, outputs
from dwindle.bench.result import COMPRESSED, DENSE, Bench, Cost, Row, RuntimeUsed
from dwindle.bench.rows import blank_rows, untried
from dwindle.bench.run import Progress
from dwindle.bench.runtimes.runtime import all_runtimes
from dwindle.checkpoint import Checkpoint
from dwindle.errors import DwindleError
from dwindle.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Counting:
    """Counts the instructions of a checkpoint's files on the emulated ARM64 CPU."""

    root: Path
    sample: list[np.ndarray]
    """What each file runs on: one array per input, a batch of one."""
    network_macs: Mapping[str, int | None]
    """Multiply-accumulates of the network's layers, by role."""
    tolerances: Mapping[str, float | None]
    """The tolerance in each target's manifest, of a difference between outputs over the largest of them."""
    sparse: bool
    """Whether to count compressed ExecuTorch files with XNNPACK's sparse kernels too."""
    progress: Progress

    def filled(self, rows: list[Row], keep: Callable[[list[Row]], None]) -> list[Row]:
        """The rows with their cost, or with the reason why a file has none.

        `keep` gets all rows after every file, so that an interrupted count of many keeps what it has.
        """
        found, dense = list(rows), {}
        for index, row in enumerate(rows):  # the dense file of a target comes first
            counted = self._counted(row) if is_counted(row) else row
            if counted.cost and row.role == DENSE:
                dense[row.target] = counted.cost.instructions["all"]
            elif counted.cost and row.target in dense:
                ratio = counted.cost.instructions["all"] / dense[row.target]
                counted = replace(counted, cost=replace(counted.cost, ratio=ratio))
            found[index] = counted
            keep(with_reasons(found, self.root))
        return with_reasons(found, self.root)

    def _counted(self, row: Row) -> Row:
        import numpy as np

        path = self.root / row.artifact.path
        try:
            count = emulator.count(path, row.target, self.sample, progress=self.progress)
        except WorkerFailed as error:
            self.progress(str(error))
            return replace(row, cost=None, reasons={**row.reasons, "cost": str(error)})
        if not all(np.isfinite(output).all() for output in count.outputs):
            return replace(row, cost=None, reasons={**row.reasons, "cost": "its outputs there are not finite"})
        sparse, missing = self._sparse(row, path)
        relative, why = self._difference(row, path, count)
        cost = Cost(
            instructions=count.instructions,
            ratio=None,
            macs=count.macs,
            network_macs=self.network_macs.get(row.role),
            sparse=sparse,
            relative=relative,
            tolerance=self.tolerances.get(row.target),
            runtime=count.runtime,
            emulator=count.emulator,
            cpu=count.cpu,
        )
        if cost.network_macs is None:
            missing["cost.network_macs"] = "the checkpoint doesn't say how many the network has"
        if why:
            missing["cost.relative"] = why
        reasons = {key: reason for key, reason in row.reasons.items() if not key.startswith("cost")}
        return replace(row, cost=cost, reasons={**reasons, **missing})

    def _sparse(self, row: Row, path: Path) -> tuple[dict[str, int] | None, dict[str, str]]:
        """The instructions with sparse kernels, where those are wanted and exist, and why they could not be counted."""
        if not self.sparse or row.role != COMPRESSED or row.target != "executorch":
            return None, {}
        self.progress(f"{path.name}: with sparse kernels")
        try:
            return emulator.count(path, row.target, self.sample, sparse=True, progress=self.progress).instructions, {}
        except WorkerFailed as error:
            return None, {"cost.sparse": str(error)}

    def _difference(self, row: Row, path: Path, count: emulator.Count) -> tuple[float | None, str | None]:
        """How far the outputs are from those of the same file on this machine, or why that isn't known."""
        runtime = next((one for one in all_runtimes() if one.name == row.runtime.name), None)
        if runtime is None:
            return None, f"no runtime called {row.runtime.name} is registered here to compare with"
        if missing := runtime.check():
            return None, str(missing)
        try:
            command = runtime.launch(path, 1).command
            here = outputs(lambda: Worker(runtime.name, path, command=command), [self.sample])
        except WorkerFailed as error:
            return None, str(error)
        return apart(here, count.outputs, len(here)), None


def earlier(opened: Checkpoint, exported: list[tuple[Path, Manifest]]) -> tuple[Bench | None, list[Row]]:
    """An earlier bench, if there is one, and its rows of the files that are exported now; blank rows of the others."""
    try:
        measured = Bench.load(opened.bench_path) if opened.bench_path.exists() else None
    except DwindleError:  # about to be replaced
        measured = None
    rows: list[Row] = []
    for blank, (_, manifest) in zip(blank_rows(opened.path, exported), exported, strict=True):
        if measured and measured.describes(manifest):
            rows += [row for row in measured.rows if row.target == manifest.target]
        else:
            why = f"not measured on this machine yet: run `dwindle bench {shlex.quote(str(opened.path))}`"
            used = RuntimeUsed(TARGETS.get(manifest.target), None, 1)
            rows += [untried(replace(row, runtime=used), why) for row in blank]
    return measured, rows


def carried(rows: Iterable[Row], before: Iterable[Row], root: Path) -> list[Row]:
    """The rows with the costs that are in `before` of the same files in the same runtimes."""

    def key(row: Row) -> tuple[str, str | None, str]:
        return row.target, row.runtime.name, row.artifact.sha256

    known = {key(row): row for row in before if row.cost}
    kept = []
    for row in rows:
        if found := known.get(key(row)):
            about = {name: why for name, why in found.reasons.items() if name.startswith("cost.")}
            row = replace(row, cost=found.cost, reasons={**row.reasons, **about})
        kept.append(row)
    return with_reasons(kept, root)


def with_reasons(rows: Iterable[Row], root: Path) -> list[Row]:
    """The rows, of which each without a cost has the reason for it."""

    def why(row: Row) -> str:
        if row.target not in TARGETS:
            return f"no ARM64 runtime here runs {row.target} files"
        return f"not counted yet: run `dwindle bench {shlex.quote(str(root))} --device arm64`"

    return [
        row if row.cost or "cost" in row.reasons else replace(row, reasons={**row.reasons, "cost": why(row)})
        for row in rows
    ]


def is_counted(row: Row) -> bool:
    """Whether the emulator has the runtime that this row is of."""
    return row.target in TARGETS and row.runtime.name == TARGETS[row.target]
