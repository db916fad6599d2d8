"""One run of `dwindle bench`: the checkpoint's files, and everything they are measured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.result import Bench, Row
from dwindle.bench.rows import blank_rows
from dwindle.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np

    from dwindle.models.checked_task import CheckedTask
    from dwindle.preprocessing import Preprocessing
    from dwindle.signature import Signature

Progress = Callable[[str], None]
"""Called with a line that says what is being done."""


@dataclass(frozen=True)
class Run:
    """What `bench` hands to every device: the files, and how to measure them."""

    root: Path
    """The checkpoint's folder."""
    exported: list[tuple[Path, Manifest]]
    """Each export's folder and manifest."""
    network: str
    """What the checkpoint is of, such as `zoo:resnet8 on digits`."""
    network_macs: Mapping[str, int | None]
    """Multiply-accumulates of the network's layers, by the role of the file: DENSE and COMPRESSED."""
    task: CheckedTask
    threads: int
    """How many threads one inference may use."""
    seed: int
    """The seed of the order of turns and of the bootstrap."""
    sparse: bool
    """Whether to count with sparse kernels too, where a device's `options` name that."""
    profile: bool
    """Whether to time operators too, where a device's `options` name that."""
    progress: Progress
    keep: Callable[[Bench], None]
    """Saves what is known so far, for a device that takes minutes and may be interrupted."""

    @cached_property
    def sample(self) -> list[np.ndarray]:
        """What every file runs on while it is timed: one array per input, a batch of one."""
        return self.samples(1)[0]

    def samples(self, count: int) -> list[list[np.ndarray]]:
        """The first samples of the test split, each as `sample`."""
        from dwindle.bench.reference import samples

        return samples(self.task, count)

    @property
    def tolerances(self) -> dict[str, float | None]:
        """How far a file's outputs may be from those expected, over the largest of them, by target."""
        return {manifest.target: manifest.parity.tolerance for _, manifest in self.exported}

    @property
    def signature(self) -> Signature | None:
        """What every file takes and gives; None where an older version of dwindle exported them."""
        return next((manifest.signature for _, manifest in self.exported), None)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes an input of every file; None where inputs are no images, or it isn't known."""
        return next((manifest.preprocessing for _, manifest in self.exported), None)

    def blank_pairs(self) -> list[tuple[Row, Row]]:
        """Each target's dense and compressed file as a row with nothing measured."""
        return blank_rows(self.root, self.exported)
