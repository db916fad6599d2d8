"""The client side of a worker: a process that holds one file, with a time limit on each answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np

from dwindle.bench.launch import python_worker
from dwindle.bench.wire import receive, send
from dwindle.errors import DwindleError

_STEPS = {"load": "loading", "time": "timing", "infer": "running", "profile": "profiling"}
"""What a worker does at each request, for messages."""
PATIENCE = 180.0
"""Seconds that one answer may take before its worker is considered hung."""


def ends_with_us(command: Sequence[str]) -> list[str]:
    """Changes a command so that its process ends when this one does, even if this one is killed.

    On Linux, by util-linux's `setpriv`, which becomes the command (PR_SET_PDEATHSIG, prctl(2)); as it is elsewhere.
    """
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL"] if setpriv else []), *command]


class WorkerFailed(DwindleError):
    """A runtime refused a file, ended during a request, or did not answer in time.

    Its `code` is `refused`, `ended` or `hung`.
    """

    def __init__(self, message: str, file: Path, code: str = "refused") -> None:
        super().__init__(message, code=code, path=file)
        self.file = file


@dataclass(frozen=True)
class Loaded:
    """What a worker says of loading its file and of the first inference."""

    version: str
    load_ms: float
    first_ms: float
    memory_bytes: int | None
    """Growth of the peak resident set over the process that has only imported the library."""
    throttle: float = 1.0
    """By which factor the CPU was slowed down on purpose."""
    compiles: bool = False
    """Whether the first inference compiled the file, unless an earlier process had."""
    accelerator: str | None = None
    """What computed instead of the CPU, whose thread waited for it; None where the CPU computed."""


@dataclass(frozen=True)
class Slice:
    """A few inferences in a row."""

    wall_ns: np.ndarray
    cpu_ns: np.ndarray | None
    """The thread's CPU time; None with several threads, without such a clock, or where an accelerator computes."""
    switches: int
    """How often the kernel took the CPU from the thread while it was running."""
    waited_ns: int | None = None
    """Nanoseconds in which the thread was ready to run and had no CPU, where that is known instead of `cpu_ns`."""


class Worker:
    """One runtime in its own process with one file. A context manager; leaving it ends the process."""

    def __init__(
        self,
        runtime: str,
        file: Path,
        threads: int = 1,
        patience: float = PATIENCE,
        command: Sequence[str] | None = None,
    ) -> None:
        """Starts the process; nothing is loaded yet.

        runtime: the name of what runs the file, for messages. command: starts a program that answers as
        `dwindle.bench.worker` does; by default that module, with the registered runtime of the name. patience: seconds
        that one answer may take.
        """
        self.runtime, self.file, self.threads, self.patience = runtime, file, threads, patience
        self._chatter = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        self._process = subprocess.Popen(
            ends_with_us(command or python_worker(runtime, file, threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._chatter,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,  # Ctrl-C must not print a traceback there, and `_kill` ends all of it
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def load(self, sample: list[np.ndarray]) -> Loaded:
        """Loads the file and runs it once on `sample` (one array per input, a batch of one).

        Raises WorkerFailed where the worker refuses the file, dies or doesn't answer in time. So does every method
        below.
        """
        header, _ = self._ask("load", sample)
        return Loaded(**header)

    def time(self, iterations: int) -> Slice:
        """Times so many inferences on the sample that `load` was given."""
        header, (wall, *cpu) = self._ask("time", [], iterations=iterations)
        alone = cpu[0] if cpu and self.threads == 1 else None  # of several threads, the calling one's is only a part
        return Slice(wall, alone, header["switches"], header.get("waited_ns"))

    def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The file's outputs for one sample."""
        return self._ask("infer", inputs)[1]

    def profile(self, iterations: int) -> list[tuple[str, str, float, str]]:
        """Each operator of an inference on the sample: its name, its kind, mean milliseconds, and what ran it."""
        header, _ = self._ask("profile", [], iterations=iterations)
        return [(name, kind, ms, where) for name, kind, ms, where in header["operators"]]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it is gone, with a request still in the buffer
            self._requests.close()
        self._answers.close()
        try:
            self._process.wait(timeout=2)  # its input has ended, and so does it
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._chatter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._kill()
        self.close()

    def _kill(self) -> None:
        """Ends the process and those that it started, which are all in its process group."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this very moment
                os.killpg(self._process.pid, signal.SIGKILL)

    def _ask(self, request: str, arrays: list[np.ndarray], **fields: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill()  # ends the write or read below, whichever hangs

        timer = threading.Timer(self.patience, stop)
        timer.start()
        try:
            send(self._requests, {"request": request, **fields}, arrays)
            header, answer = receive(self._answers)
        except (EOFError, OSError):
            self._process.wait()
            code = "hung" if late.is_set() else "ended"
            raise self._failed(self._end(request, late.is_set()) + self._last_words(), code) from None
        finally:
            timer.cancel()
        if "error" in header:
            said, *_ = header["error"].strip().splitlines() or ["it doesn't say why"]  # the rest is for its developers
            raise self._failed(f"failed: {said}")
        return header, answer

    def _failed(self, how: str, code: str = "refused") -> WorkerFailed:
        return WorkerFailed(f"{self.runtime} on {self.file.name} {how}", self.file, code)

    def _end(self, request: str, late: bool) -> str:
        if late:
            return f"hung: no answer to {request!r} within {self.patience:g} s"
        code = self._process.returncode
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        return f"{how} while {_STEPS[request]} it"

    def _last_words(self) -> str:
        self._chatter.seek(0)
        lines = self._chatter.read().decode(errors="replace").splitlines()
        tail = "; ".join([line.strip() for line in lines if line.strip()][-3:])
        return f"; its last words: {tail}" if tail else ""
