"""Whether a file computes elsewhere what it computes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.result import Parity, Row
from dwindle.bench.runtime import all_runtimes, launch
from dwindle.errors import UsageError

if TYPE_CHECKING:
    from dwindle.task import Task

SAMPLES = 16


@dataclass(frozen=True)
class Reference:
    """What a device's files are compared with."""

    root: Path
    inputs: list[list[np.ndarray]]
    """See `samples`."""
    tolerances: Mapping[str, float | None]
    """By target: the manifests'."""

    def compared(self, row: Row, worker: Worker, within: float | None = None) -> Row:
        """The row of the file that a device's worker has loaded, with how far its outputs are from those here.

        within: the tolerance, where it isn't the manifest's.
        """
        try:
            here, name = outputs_here(self.root / row.artifact.path, row.target, self.inputs)
            there = [output for arrays in self.inputs for output in worker.infer(arrays)]
        except (WorkerFailed, LookupError) as error:
            return replace(row, reasons={**row.reasons, "parity": str(error)})
        found = Parity(apart(here, there), within or self.tolerances[row.target], len(self.inputs), name)
        return replace(row, parity=found)


def outputs_here(path: Path, target: str, inputs: list[list[np.ndarray]]) -> tuple[list[np.ndarray], str]:
    """What this machine's first runtime for such files computes of each input, and its name.

    Raises LookupError, with a sentence, where there is none.
    """
    fitting = [runtime for runtime in all_runtimes() if runtime.target == target]
    able = next((runtime for runtime in fitting if runtime.unavailable() is None), None)
    if able is None:
        why = next((runtime.unavailable() for runtime in fitting), None)
        raise LookupError(why or f"no runtime of this machine runs {target} files to compare with")
    command = launch(able, path, 1).command
    return outputs(lambda: Worker(able.name, path, command=command), inputs), able.name


def outputs(start: Callable[[], Worker], inputs: list[list[np.ndarray]]) -> list[np.ndarray]:
    """All outputs for each input, one after the other."""
    with start() as worker:
        worker.load(inputs[0])
        return [output for arrays in inputs for output in worker.infer(arrays)]


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference, over the largest of our outputs; NaN differs from everything infinitely."""
    differences = [float(np.abs(mine - other).max()) for mine, other in zip(ours, theirs, strict=True)]
    largest = max(float(np.abs(mine).max()) for mine in ours)
    worst = max(np.inf if np.isnan(difference) else difference for difference in differences)
    return worst / largest if largest else worst


def samples(task: Task, count: int) -> list[list[np.ndarray]]:
    """Real test inputs where the task has them: zeros, say, would be slower or faster than any photo.

    One entry per sample: an array per input of the network, each a batch of one. Raises UsageError without any.
    """
    inputs = task.inputs("test") if hasattr(task, "inputs") else task.example_inputs()
    whole = [tensor[:count].detach().float().cpu().numpy() for tensor in inputs]
    if not whole or not len(whole[0]):
        raise UsageError("the task's `inputs` of the test split are empty: a file is measured on real ones")
    return [[array[index : index + 1] for array in whole] for index in range(len(whole[0]))]
