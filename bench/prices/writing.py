"""The files that a profile times, written by a few processes at once: `python -m dwindle.bench.prices.writing JOB`.

An exporter needs up to a second for each of two hundred files, nearly all of it the same Python for a layer as for a
large network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import errors, registry
from dwindle.bench.launch import python_module
from dwindle.bench.prices.designed import network
from dwindle.bench.prices.one_layer import example, module, put
from dwindle.bench.prices.timing import SAYS, File
from dwindle.bench.process import ends_with_us
from dwindle.errors import DwindleError
from dwindle.price import Shape
from dwindle.quantities import format_left

if TYPE_CHECKING:
    from torch import Tensor

PROCESSES = 2
"""How many write at once, where there are as many cores: each holds torch and an exporter."""
Pixels = tuple[str, int]
"""A network, and the pixels of its images."""


def written_aside(
    layers: Sequence[Shape],
    networks: Sequence[Pixels],
    target: str,
    precisions: Sequence[str],
    folder: Path,
    progress: Callable[[str], None],
) -> dict[str, list[File]]:
    """By precision, a file for each layer and then for each network, with a sample of what it takes.

    `progress` is called with a sentence now and then. Raises what the target raises for a layer that it can't take, and
    DwindleError where a process dies.
    """
    every: list[str | Pixels] = [*map(str, layers), *networks]
    jobs = [(precision, index, what) for precision in precisions for index, what in enumerate(every)]
    kind = registry.resolve("dwindle.targets", target, "target")
    paths = [_path(folder, precision, index, kind.suffix) for precision, index, _ in jobs]
    began = time.monotonic()
    count = min(PROCESSES, os.cpu_count() or 1)
    # The user's own targets must be found there as they are here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        running = []
        for start in range(count):
            command = python_module(__name__, json.dumps([target, str(folder), jobs[start::count]]))
            said = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            process = subprocess.Popen(
                ends_with_us(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=environment,
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # before it is waited for, where another has failed
            running.append((process, said))
        for process, said in running:
            while (out := _ended(process)) is None:
                done = sum(path.exists() for path in paths)
                left = format_left(time.monotonic() - began, done, len(paths))
                progress(f"{done} of {len(paths)} files written{left}")
            if process.returncode:
                said.seek(0)
                raise _failure(out, said.read(), process.returncode)
    samples = [[_inputs(what, index).numpy()] for index, what in enumerate(every)]
    return {
        precision: [(_path(folder, precision, index, kind.suffix), sample) for index, sample in enumerate(samples)]
        for precision in precisions
    }


def _ended(process: subprocess.Popen[str]) -> str | None:
    """What a process has printed, once it has ended; None where it goes on for some seconds more."""
    try:
        return process.communicate(timeout=SAYS)[0]
    except subprocess.TimeoutExpired:
        return None


def _failure(out: str, said: str, code: int) -> DwindleError:
    """What a process said of its failure; the end of its last words, where it died without."""
    try:
        name, message, fields = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "it said nothing")
        return DwindleError(f"writing the files to time ended with {code}: {last}", code="process-died")
    kind: type[DwindleError] = getattr(errors, name, DwindleError)
    return kind(message, **fields)


def _inputs(what: str | Pixels, index: int) -> Tensor:
    """A batch of one for a layer, by its shape in text, or for a network."""
    import torch

    if isinstance(what, str):
        return example(Shape.parse(what), index)
    _, pixels = what
    return torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(index))


def _path(folder: Path, precision: str, index: int, suffix: str) -> Path:
    return folder / f"{precision}-{index}{suffix}"


def main() -> int:
    """Writes the files of a job; what went wrong is a line of JSON on stdout."""
    import torch

    torch.set_num_threads(1)
    target, folder, jobs = json.loads(sys.argv[1])
    try:
        kind = registry.resolve("dwindle.targets", target, "target")
        for precision, index, what in jobs:
            model = module(Shape.parse(what)) if isinstance(what, str) else network(*what)
            put(model, _inputs(what, index), kind(precision), _path(Path(folder), precision, index, kind.suffix))
    except DwindleError as error:
        path = None if error.path is None else str(error.path)
        fields = {"code": error.code, "option": error.option, "path": path, "name": error.name}
        print(json.dumps([type(error).__name__, str(error), fields]))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
