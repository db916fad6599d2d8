"""How far a model file's outputs are from those of a reference file, each run in its own runtime on the same samples.

The formats of the two may differ. Each file runs in a process of its own, so that a crash is a sentence.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dwindle.bench.files.contents import Tensor, contents
from dwindle.bench.process import WorkerFailed
from dwindle.bench.reference import outputs_here
from dwindle.difference import difference
from dwindle.errors import UsageError, one_line
from dwindle.quantities import format_names

_TARGETS = {
    ".onnx": "onnx",
    ".tflite": "litert",
    ".mlpackage": "coreml",
    ".mlmodel": "coreml",
    ".pte": "executorch",
    ".pt2": "pytorch",
    ".mnn": "mnn",
}
"""The export target whose runtimes run files of a suffix."""
_BY_CORE_ML = "CoreMLBackend"
_ALPHABETICAL = ".mnn"
"""The suffix of files whose runtime lists inputs and outputs by their names in alphabetical order."""

Samples = Mapping[str, np.ndarray]


class Answers(NamedTuple):
    """What a file makes of each sample."""

    names: list[str]
    samples: list[list[np.ndarray]]
    """An array per output, in the order of `names`, for each sample."""
    runtime: str


@dataclass(frozen=True)
class Expected:
    """What the outputs of files are held against."""

    path: Path
    """The reference file."""
    inputs: Samples

    @cached_property
    def answers(self) -> Answers:
        return answers(self.path, self.inputs)

    def furthest(self, path: Path) -> tuple[float | None, str]:
        """The largest difference of one of the outputs of the file at `path`, over the largest value that the
        reference has of that output, and where it is; None and the reason where the outputs can't be compared.

        Raises UsageError where the samples aren't what one of the files takes.
        """
        try:
            ours, theirs = self.answers, answers(path, self.inputs)
        except (LookupError, WorkerFailed) as error:
            return None, str(error)
        if len(ours.names) != len(theirs.names):
            return None, f"{self.path} has {len(ours.names)} outputs, and it has {len(theirs.names)}"
        named = sorted(ours.names) == sorted(theirs.names)
        places = [theirs.names.index(name) if named else place for place, name in enumerate(ours.names)]
        worst, where = -1.0, ""
        for number, (before, after) in enumerate(zip(ours.samples, theirs.samples, strict=True), 1):
            for name, one, place in zip(ours.names, before, places, strict=True):
                other = after[place]
                if one.shape != other.shape:
                    shapes = f"{list(other.shape)}, and {list(one.shape)} in {self.path}"
                    return None, f"the output {name} has the shape {shapes}"
                off = difference(other.astype(one.dtype), one).relative if one.size else 0.0
                if not math.isfinite(off):
                    return None, f"the output {name} is no number somewhere in sample {number}"
                if off > worst:
                    worst, where = off, f"the output {name} in sample {number} of {len(ours.samples)}"
        return worst, f"{where}, by {theirs.runtime} against {ours.runtime} on {self.path}"


def read_samples(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names. Pickles in it are not read.

    Raises UsageError where it can't be read, or holds no arrays of numbers.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}", code="missing", option="inputs", path=path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, MemoryError) as error:
        message = f"{path} is no .npz file of numbers as numpy.savez writes it ({one_line(error)})"
        raise UsageError(message, code="damaged", option="inputs", path=path) from error
    if not found or any(array.dtype.kind not in "biuf" for array in found.values()):
        raise UsageError(f"{path} has no arrays of numbers", code="damaged", option="inputs", path=path)
    return found


def answers(path: Path, inputs: Samples) -> Answers:
    """Runs a file on each sample, in the first of this machine's runtimes for its format.

    Raises LookupError, with a sentence, where none is here, WorkerFailed where it fails, and UsageError where the
    samples aren't what the file takes.
    """
    found = contents(path)
    sides = [list(found.inputs), list(found.outputs)]
    if path.suffix.lower() == _ALPHABETICAL:
        sides = [sorted(side, key=lambda tensor: tensor.name) for side in sides]
    target = _TARGETS.get(path.suffix.lower(), path.suffix[1:])
    if found.opaque == _BY_CORE_ML:
        target = "executorch-coreml"
    samples = _fed(path, sides[0], inputs)
    made, runtime = outputs_here(path.resolve(), target, samples)
    each = len(made) // len(samples)
    names = [tensor.name for tensor in sides[1]]
    if len(names) != each:
        names = [str(place) for place in range(each)]
    return Answers(names, [made[start : start + each] for start in range(0, len(made), each)], runtime)


def _fed(path: Path, takes: Sequence[Tensor], inputs: Samples) -> list[list[np.ndarray]]:
    """An array per input of the file, for each sample.

    Arrays belong to inputs by name, or where names differ, by their order. An array with one dimension more than its
    input holds samples; so does one of as many dimensions where the first size of the input is 1 or not fixed, which
    are then given one by one. Raises UsageError where they don't fit.
    """
    if len(takes) != len(inputs):
        listed = format_names([str(tensor) for tensor in takes])
        raise _unfit(path, f"takes {len(takes)} inputs ({listed}), and there are arrays for {len(inputs)}")
    names = [tensor.name for tensor in takes]
    arrays = [inputs[name] for name in names] if set(names) == set(inputs) else list(inputs.values())
    split = [_split(path, tensor, array) for tensor, array in zip(takes, arrays, strict=True)]
    counts = {len(each) for each in split}
    if len(counts) != 1 or 0 in counts:
        listed = format_names([f"{len(each)} of {tensor.name}" for tensor, each in zip(takes, split, strict=True)])
        raise _unfit(path, f"is given {listed}: give as many samples of each input, one or more")
    return [list(sample) for sample in zip(*split, strict=True)]


def _split(path: Path, tensor: Tensor, array: np.ndarray) -> list[np.ndarray]:
    """The samples in an array, as an input takes them."""
    dimensions, first = len(tensor.shape), tensor.shape[:1]
    if array.ndim == dimensions + 1:
        samples = list(array)
    elif array.ndim == dimensions and first and (isinstance(first[0], str) or first[0] in (1, -1)):
        samples = [array[place : place + 1] for place in range(len(array))]
    else:
        samples = [array]
    given = samples[0].shape if samples else array.shape[1:]
    wanted = [size if isinstance(size, int) and size > 0 else None for size in tensor.shape]
    if len(given) != dimensions or any(size not in (None, got) for size, got in zip(wanted, given, strict=True)):
        raise _unfit(path, f"takes {tensor}, and an array of {list(array.shape)} is given")
    dtype = tensor.dtype if tensor.dtype in np.sctypeDict else None
    return [np.asarray(sample, dtype, order="C") for sample in samples]


def _unfit(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} {why}", code="other-inputs", option="inputs", path=path)
