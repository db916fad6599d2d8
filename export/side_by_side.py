"""Several targets of one checkpoint at once: a process for each, of which nothing is shared but what they import.

A converter's memory goes back when its process ends, and one that crashes takes no other target with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle import errors
from dwindle.errors import DwindleError
from dwindle.export.options import ExportOptions

if TYPE_CHECKING:
    from dwindle.models.trust import Trust

_END = "\0"
"""Begins a line that reports an error, as JSON: the target's index, the kind of error, its message, its members."""
_SHARED = (
    "torch.export._trace",
    "torchvision.models",
    "dwindle.models.tasks",
    "dwindle.models.build",
    "dwindle.export.exporter",
)
"""What every export imports, which takes seconds: once for all where processes fork."""
_IDLE = {"coreml": ("coremltools", ("executorch", "sklearn", "torchao"))}
"""By target, what it imports, and what that imports where it's there, for networks that dwindle doesn't hand it."""


def run(
    checkpoint: Path,
    options: Mapping[str, ExportOptions],
    progress: Callable[[str], None],
    threads: int | None = None,
    trust: Trust = False,
) -> None:
    """Exports to each target that `options` names, side by side: as many at once as there are cores.

    threads: for each process; None: its share of the machine's cores. All go on to their ends; then the first
    failure is raised, as what it was in its process, or DwindleError for a process that died.
    """
    share = threads or max(1, (os.cpu_count() or 1) // len(options))
    # The same places to look for a user's own modules as here.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(share)}
    # Not from this process, which may have threads, and a device: those don't survive a fork.
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
        tempfile.TemporaryFile("w+") as chatter,
        tempfile.TemporaryDirectory(prefix="dwindle-export-") as scratch,  # converters leave files behind
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=chatter, text=True, env={**environment, "TMPDIR": scratch}
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(_END):
                    index, kind, message, members = json.loads(line.removeprefix(_END))
                    failures[index] = getattr(errors, kind)(message, **members)
                else:
                    progress(line.rstrip("\n"))
        finally:
            process.stdout.close()
        if process.wait():
            chatter.seek(0)
            raise DwindleError(f"the export ended with {process.returncode}: {_last(chatter.read())}")
    if failures:
        raise failures[min(failures)]


def main() -> int:
    """A process for each target; their progress on stdout."""
    options = json.loads(sys.argv[1])
    forks = sys.platform == "linux"  # elsewhere libraries of the system's don't survive it
    if forks:
        for module in _SHARED:
            importlib.import_module(module)
        gc.freeze()
    start: Any = multiprocessing.get_context("fork" if forks else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        chatter = [Path(folder, str(index)) for index in range(len(options))]
        processes = [start.Process(target=_one, args=each) for each in enumerate(zip(options, chatter, strict=True))]
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
                said = _last(chatter[index].read_text())
                message = f"the export to {options[index][1]} ended with {process.exitcode}: {said}"
                line = _END + json.dumps([index, DwindleError.__name__, message, {}]) + "\n"
                print(line, end="", flush=True)  # in one piece: unbuffered, an end of its own may follow another's line
    return 0


def _one(index: int, given: tuple[tuple[str, str, dict[str, Any], Trust], Path]) -> None:
    """One target in this process; only progress goes to what is stdout at the start."""
    (checkpoint, name, options, trust), chatter = given
    out = os.fdopen(os.dup(1), "w")
    with chatter.open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    gc.set_threshold(100_000, 50, 100)  # a process this short would spend a fifth of its time looking for garbage
    if name in _IDLE:
        _import_alone(*_IDLE[name])
    from dwindle.export.exporter import export_one

    try:
        export_one(checkpoint, name, ExportOptions(**options), lambda line: print(line, file=out, flush=True), trust)
    except DwindleError as error:
        known = next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        members = {"code": error.code, "option": error.option, "path": error.path, "name": error.name}
        print(_END + json.dumps([index, known, str(error), members], default=str), file=out, flush=True)


def _import_alone(module: str, without: Sequence[str]) -> None:
    """Imports a module as if others, that were not imported yet, weren't installed."""
    hidden = [name for name in without if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: importing it raises ImportError
    try:
        importlib.import_module(module)
    except ImportError:
        pass  # whoever needs it says so
    finally:
        for name in hidden:
            del sys.modules[name]


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["nothing was said"])[-1]


if __name__ == "__main__":
    sys.exit(main())
