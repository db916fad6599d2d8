"""Exporting one checkpoint to one or several targets at once, each in a process of its own.

The processes share nothing but the modules they import. A converter's memory is freed when its process ends, and native
code that crashes ends no other target's export, and not the program that asked for it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwindle import errors
from dwindle.errors import DwindleError
from dwindle.export.options import ExportOptions
from dwindle.export.steps import recorded
from dwindle.imports import hidden

if TYPE_CHECKING:
    from dwindle.models.trust import Trust

_END = "\0"
"""Begins a line of JSON that says what went wrong: the target's index, the class of the error, its fields."""
_FIELDS = ("code", "option", "path", "name")
"""The fields of a DwindleError beside its message."""
_STEP = ".step"
_SHARED = (
    "torch.export._trace",
    "torchvision.models",
    "dwindle.models.tasks",
    "dwindle.models.build",
    "dwindle.export.one_target",
)
"""Modules that every export imports. That takes seconds, and happens once for all targets where processes fork."""
_OPTIONAL = {"coreml": ("coremltools", ("executorch", "sklearn", "torchao"))}
"""By target, the library it imports, and packages that this library imports where they are installed, unused here."""


def run(
    checkpoint: Path,
    options: Mapping[str, ExportOptions],
    progress: Callable[[str], None],
    trust: Trust = False,
) -> dict[str, DwindleError]:
    """Exports to each target that `options` names, as many at a time as there are cores, each to its end.

    Returns the failures by target, each as the class that it was in its process, or as DwindleError with the code
    `process-died` for a process that died. Empty where every export succeeded.

    progress: called with each line that an export reports. trust: whether the checkpoint's own code may run, as in
    `exporter.export`. The processes share the threads that PyTorch has here. Raises DwindleError where the process that
    starts the others died.
    """
    share = max(1, torch.get_num_threads() // len(options))
    # The user's own modules must be found there as they are here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(share)}
    # A new process does the forking: this one may have threads or use a GPU, which do not survive a fork.
    allowed = trust if isinstance(trust, bool) else sorted(trust)
    command = [
        sys.executable,
        "-P",  # a module that lies in the working directory must not be imported in place of one that was installed
        "-m",
        __name__,
        json.dumps([(str(checkpoint), name, asdict(own), allowed) for name, own in options.items()]),
    ]
    failures: dict[int, DwindleError] = {}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as chatter,
        tempfile.TemporaryDirectory(prefix="dwindle-export-") as scratch,  # converters leave files behind
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=chatter, text=True, env={**environment, "TMPDIR": scratch}
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(_END):
                    index, kind, message, fields = json.loads(line.removeprefix(_END))
                    failures[index] = getattr(errors, kind)(message, **fields)
                else:
                    progress(line.rstrip("\n"))
        finally:
            process.stdout.close()
        if process.wait():
            chatter.seek(0)
            raise DwindleError(
                f"the export ended with {process.returncode}: {_last_line(chatter.read())}", code="process-died"
            )
    return {name: failures[index] for index, name in enumerate(options) if index in failures}


def main() -> int:
    """A process for each target; their progress on stdout."""
    options = json.loads(sys.argv[1])
    forks = sys.platform == "linux"  # on other systems, some of the system's libraries do not survive a fork
    if forks:
        for module in _SHARED:
            importlib.import_module(module)
        gc.freeze()
    start: Any = multiprocessing.get_context("fork" if forks else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        own = [Path(folder, str(index)) for index in range(len(options))]
        processes = [start.Process(target=_one, args=each) for each in enumerate(zip(options, own, strict=True))]
        running: list[Any] = []
        for process in processes:
            while len(running) >= (os.cpu_count() or 1):  # more at once would only take more memory
                wait([other.sentinel for other in running])
                running = [other for other in running if other.is_alive()]
            process.start()
            running.append(process)
        for index, process in enumerate(processes):
            process.join()
            if process.exitcode:
                name, message = options[index][1], _end(options[index][1], process.exitcode, own[index])
                line = _END + json.dumps(
                    [index, DwindleError.__name__, message, {"code": "process-died", "name": name}]
                )
                print(line + "\n", end="", flush=True)  # as one write, so that another process's line cannot split it
    return 0


def _end(name: str, code: int, own: Path) -> str:
    """How an export ended that did not come to its end. own: as in `_one`."""
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
    step = own.with_suffix(_STEP)
    where = f" while {step.read_text(encoding='utf-8')}" if step.exists() else ""
    return f"the export to {name} {how}{where}: {_last_line(own.read_text(encoding='utf-8', errors='replace'))}"


def _one(index: int, given: tuple[tuple[str, str, dict[str, Any], Trust], Path]) -> None:
    """One target's export in this process. Its progress goes to stdout.

    All other output goes to the file that is given, and the last step to one beside it that ends in `_STEP`.
    """
    (checkpoint, name, options, trust), own = given
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with own.open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    gc.set_threshold(100_000, 50, 100)  # by default, garbage collection would take a fifth of so short a process
    if name in _OPTIONAL:
        module, unused = _OPTIONAL[name]
        with hidden(*unused), contextlib.suppress(ImportError):  # the target says it where the library is missing
            importlib.import_module(module)
    from dwindle.export.one_target import export_one

    try:
        with recorded(own.with_suffix(_STEP)):
            export_one(
                checkpoint, name, ExportOptions(**options), lambda line: print(line, file=out, flush=True), trust
            )
    except DwindleError as error:
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        fields = {name: str(value) for name in _FIELDS if (value := getattr(error, name)) is not None}
        print(_END + json.dumps([index, known.__name__, str(error), fields]), file=out, flush=True)


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or ["it printed nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main())
