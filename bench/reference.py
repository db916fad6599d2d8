"""How far a file's outputs on a device are from those on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dwindle.bench.process import Worker, WorkerFailed
from dwindle.bench.result import Parity, Row
from dwindle.bench.runtimes.runtime import all_runtimes
from dwindle.difference import difference

if TYPE_CHECKING:
    from dwindle.models.checked_task import CheckedTask

SAMPLES = 16
"""How many samples of the test split have their outputs compared."""


@dataclass(frozen=True)
class Reference:
    """The outputs of files on this machine, with which those on a device are compared."""

    root: Path
    inputs: list[list[np.ndarray]]
    """The samples whose outputs are compared, as `samples` returns them."""
    tolerances: Mapping[str, float | None]
    """The tolerance in each target's manifest."""

    def compared(self, row: Row, worker: Worker, within: float | None = None) -> Row:
        """The row with how far a device's outputs are from this machine's; `worker` is there and has loaded the file.

        within: the tolerance, where it isn't the manifest's.
        """
        try:
            here, name = outputs_here(self.root / row.artifact.path, row.target, self.inputs)
            there = [output for arrays in self.inputs for output in worker.infer(arrays)]
        except (WorkerFailed, LookupError) as error:
            return replace(row, reasons={**row.reasons, "parity": str(error)})
        off = apart(here, there, len(there) // len(self.inputs))
        found = Parity(off, within or self.tolerances[row.target], len(self.inputs), name)
        return replace(row, parity=found)


def outputs_here(path: Path, target: str, inputs: list[list[np.ndarray]]) -> tuple[list[np.ndarray], str]:
    """The outputs of this machine's first runtime for such files, input by input, and its name.

    Raises LookupError, with a sentence, where there is none.
    """
    fitting = [runtime for runtime in all_runtimes() if runtime.target == target]
    able = next((runtime for runtime in fitting if runtime.check() is None), None)
    if able is None:
        missing = next((runtime.check() for runtime in fitting), None)
        raise LookupError(str(missing or f"no runtime of this machine runs {target} files to compare with"))
    command = able.launch(path, 1).command
    return outputs(lambda: Worker(able.name, path, command=command), inputs), able.name


def outputs(start: Callable[[], Worker], inputs: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The outputs of a file for each of several inputs, one after the other in one list."""
    with start() as worker:
        worker.load(inputs[0])
        return [output for arrays in inputs for output in worker.infer(arrays)]


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], outputs: int = 1) -> float:
    """The largest difference between two lists of outputs, each over the largest of ours of that output; infinite where
    one has a NaN.

    outputs: how many a file has; they follow each other in the lists, for one input after the other.
    """
    assert [our.shape for our in ours] == [other.shape for other in theirs]
    each = [(ours[index::outputs], theirs[index::outputs]) for index in range(outputs)]
    return max(difference(_joined(there), _joined(here)).relative for here, there in each)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def samples(task: CheckedTask, count: int) -> list[list[np.ndarray]]:
    """The first samples of the test split where the task has `inputs`, and otherwise its example inputs.

    Real ones, as zeros would be slower or faster than any photo. One entry per sample: an array per input of the
    network, each a batch of one. Raises UsageError where the split is empty.
    """
    from dwindle.models.inputs import as_fed

    whole = [as_fed(tensor[:count]).numpy() for tensor in task.inputs("test")]
    return [[array[index : index + 1] for array in whole] for index in range(len(whole[0]))]
