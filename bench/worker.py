"""The worker process of a runtime: `python -m dwindle.bench.worker RUNTIME FILE THREADS`.

One runtime, one file, so that neither a crash nor another library's threads and memory reach anyone
else. Serves these requests (see `wire` for the framing; every answer may be `{"error": …}` instead):

    load + a sample's arrays  → load_ms, first_ms, version, memory_bytes (null off Linux), and where they are not
                                `process.Loaded`'s defaults, throttle, compiles, accelerator
    time {iterations}         → switches + arrays wall_ns, cpu_ns (int64, one entry per iteration); without a clock of
                                the thread's CPU time, waited_ns + the array wall_ns; of an accelerator, the array alone
    infer + input arrays      → output arrays
    profile {iterations}      → operators: name, kind, milliseconds, what ran it (where the runtime has a profiler)

It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dwindle.bench.runtimes.runtime import Infer, Runtime, load
from dwindle.bench.wire import receive, send

Answer = tuple[dict[str, Any], list[np.ndarray]]


class Session:
    """The loaded file and the sample it is timed on."""

    def __init__(self, runtime: Runtime, path: Path, threads: int) -> None:
        self.runtime, self.path, self.threads = runtime, path, threads
        self.infer: Infer
        self.sample: list[np.ndarray]

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        match header["request"]:
            case "load":
                return self._load(arrays)
            case "time":
                return self._time(header["iterations"])
            case "profile":
                if not self.runtime.profiles:
                    raise ValueError(f"{self.runtime.name} has no profiler")
                timed = self.runtime.profile(self.path, self.threads, self.sample, header["iterations"])
                return {"operators": timed}, []
            case "infer":
                return {}, [np.asarray(output) for output in self.infer(arrays)]
        raise ValueError(f"no such request: {header['request']}")

    def _load(self, sample: list[np.ndarray]) -> Answer:
        version = self.runtime.version()
        reset_peak()
        before = peak_bytes()
        started = time.perf_counter_ns()
        self.infer = self.runtime.load(self.path, self.threads)
        loaded = time.perf_counter_ns()
        self.infer(sample)
        first = time.perf_counter_ns()
        self.sample = sample
        after = peak_bytes()
        return {
            "version": version,
            "load_ms": (loaded - started) / 1e6,
            "first_ms": (first - loaded) / 1e6,
            "memory_bytes": None if before is None or after is None else after - before,
            "compiles": self.runtime.compiles,
            "accelerator": self.runtime.accelerator,
        }, []

    def _time(self, iterations: int) -> Answer:
        infer, sample = self.infer, self.sample
        wall = np.empty(iterations, np.int64)
        cpu = np.empty(iterations, np.int64)
        switches = _switches()
        gc.disable()
        for index in range(iterations):
            wall_start, cpu_start = time.perf_counter_ns(), time.thread_time_ns()
            infer(sample)
            cpu_end, wall_end = time.thread_time_ns(), time.perf_counter_ns()
            cpu[index], wall[index] = cpu_end - cpu_start, wall_end - wall_start
        gc.enable()
        # While an accelerator computes, the thread waits, and its own CPU time is not an inference's.
        return {"switches": _switches() - switches}, [wall] if self.runtime.accelerator else [wall, cpu]


def _switches() -> int:
    """How often the kernel took the CPU from this thread, counted in involuntary context switches."""
    import resource

    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # macOS has no per-thread count
    return resource.getrusage(who).ru_nivcsw


def reset_peak(process: str = "self") -> None:
    """Brings a process's VmHWM down to what is resident now: importing a library may have peaked above it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="utf-8")  # man proc_pid_clear_refs


def peak_bytes(process: str = "self") -> int | None:
    """VmHWM of a process; None where /proc isn't. (ru_maxrss won't do: it is inherited across exec.)"""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def serve(start: Callable[[], Callable[[dict[str, Any], list[np.ndarray]], Answer]]) -> None:
    """Answers every request on standard input by what `start` returns, until standard input ends."""
    # Libraries print to file descriptor 1 what they like: answers go out on a copy, chatter to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    answering = start()
    while True:
        try:
            header, arrays = receive(requests)
        except EOFError:
            return
        try:
            answer = answering(header, arrays)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}, []
        send(answers, *answer)


def main() -> None:
    name, file, threads = sys.argv[1:]
    serve(lambda: Session(load(name), Path(file), int(threads)).answer)


if __name__ == "__main__":
    main()
