"""What an exported file costs on ARM64, without an ARM64 machine: the instructions that one inference executes.

qemu-user runs the file's own runtime, its real NEON kernels included, on an emulated Cortex-A76, and counts.
The count is a cost and not a time: it knows no caches, no pipeline and no clock, and comes out the same
whatever else the machine is doing.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwindle import litert, mnn, onnx_session
from dwindle.bench import build, wire
from dwindle.bench.devices import sysroot
from dwindle.bench.devices.sysroot import CPU, TARGETS
from dwindle.bench.process import WorkerFailed, ends_with_us
from dwindle.bench.run import Progress
from dwindle.errors import UsageError

CLASSES = ("all", "load_store", "simd", "fmla", "dot", "int", "branch")
"""`load_store`, `simd` (with floating point), `int` and `branch` (with system instructions) add up to `all`;
`fmla` and `dot` are those of `simd` that multiply and accumulate."""
TIME_LIMIT = 600.0
"""Seconds for one file: about five times what 300M multiply-accumulates take on a slow host."""

Request = tuple[dict[str, Any], list[np.ndarray]]
"""A message of bench/wire.py: its header and arrays."""
_REQUESTS: tuple[tuple[str, dict[str, int]], ...] = (
    ("load", {}),
    ("infer", {}),
    ("time", {"iterations": 1}),
    ("time", {"iterations": 5}),
)
"""`load` runs the file once. The last two differ by four inferences, and so do their counts: what answering takes drops
out. They are last because each of their answers is one write, which large outputs are not."""
_INFERENCES = (1, 2, 3, 8)
"""How many inferences have been run in all when each of these requests is answered."""


@dataclass(frozen=True)
class Count:
    """What was counted of one inference on one thread, of a file that was loaded and has run before."""

    instructions: dict[str, int]
    """Instructions that were executed, by their class in CLASSES."""
    macs: int
    """Multiply-accumulates executed by fused and dot-product instructions, one a lane. More than the network's
    where a kernel's tile reaches past the edge of a small feature map; fewer where zeros are skipped."""
    outputs: list[np.ndarray]
    """The file's outputs there."""
    runtime: str
    """The runtime's name and version."""
    emulator: str
    """The emulator's name and version."""
    cpu: str = CPU


def count(
    path: Path,
    target: str,
    inputs: list[np.ndarray],
    *,
    sparse: bool = False,
    time_limit: float = TIME_LIMIT,
    progress: Progress = lambda line: None,
) -> Count:
    """Counts the instructions that one inference of an exported file executes.

    Args:
        path: the file.
        target: its export target, one of TARGETS.
        inputs: one array per input of the file, of its shapes and types.
        sparse: whether ExecuTorch's XNNPACK is to use its sparse kernels.
        time_limit: seconds after which the file counts as hung.
        progress: called with a line that says how far it is.

    Raises RuntimeUnavailable where the emulation isn't set up, WorkerFailed where the file fails in it, and UsageError
    for another target and for sparse kernels of another runtime.
    """
    require(target)
    if sparse and target != "executorch":
        raise UsageError(
            f"sparse kernels can be switched on for executorch files, not for {target}", code="no-effect",
            option="sparse", name=target,
        )  # fmt: skip
    require_emulation()
    requests = [({"request": name, **fields}, [] if name == "time" else inputs) for name, fields in _REQUESTS]
    with tempfile.TemporaryDirectory() as folder:
        # Arguments lie on the stack: a longer name would move it, and the count of a small file by 1e-3.
        file = Path(folder) / f"net{path.suffix}"
        file.symlink_to(path.absolute())
        program = _executorch(file, sparse) if target == "executorch" else _python(target, file)

        def report(answered: int) -> None:
            far = f"{_INFERENCES[answered - 1]} of {_INFERENCES[-1]} inferences" if answered else "starting"
            progress(f"{path.name} on an emulated {CPU}: {far}")

        answers, readings = _emulate(path, program, requests, time_limit, report)
    counts = _of_one(*readings[-3:])  # MNN writes to standard output when it loads a file
    return Count(
        instructions={kind: counts[kind] for kind in CLASSES},
        macs=counts["macs"],
        outputs=answers[1][1],
        runtime=f"{TARGETS[target]} {answers[0][0]['version']}",
        emulator=_emulator(),
    )


def require(target: str) -> None:
    """Raises UsageError for a target whose files no emulated runtime runs."""
    if target not in TARGETS:
        raise UsageError(
            f"no ARM64 runtime here runs {target} files, only {', '.join(TARGETS)}", code="unknown-name", name=target
        )


def require_emulation() -> None:
    """Raises RuntimeUnavailable where the emulation isn't set up, with the command that does it."""
    if missing := sysroot.missing():
        raise missing.error("arm64")


def count_each(
    files: Sequence[tuple[Path, list[np.ndarray]]],
    target: str,
    *,
    time_limit: float = TIME_LIMIT,
) -> list[dict[str, int]]:
    """Counts the instructions of one inference of each of many small files, by class.

    Starting Python under the emulator takes longer than a small file: one process has all of them.

    Args:
        files: each file with one array per input.
        target: the target that all of them are of, one of TARGETS.
        time_limit: seconds after which a process counts as hung.

    Raises as `count` does.
    """
    require(target)
    require_emulation()
    if target == "executorch":  # its runner has one file, and starts at once
        counts = [count(path, target, inputs, time_limit=time_limit) for path, inputs in files]
        return [one.instructions for one in counts]
    loads: list[Request] = [({"request": "load", "path": str(path.absolute())}, inputs) for path, inputs in files]
    times: list[Request] = [
        ({"request": "time", "path": load["path"], "iterations": iterations}, [])
        for load, _ in loads
        for iterations in (1, 5)
    ]
    first = files[0][0]
    _, readings = _emulate(first, _python(target, first), loads + times, time_limit, lambda answered: None)
    own = readings[-1 - len(times) :]
    counted = [_of_one(*own[2 * index : 2 * index + 3]) for index in range(len(files))]
    return [{kind: one[kind] for kind in CLASSES} for one in counted]


def _of_one(before: dict[str, int], short: dict[str, int], long: dict[str, int]) -> dict[str, int]:
    """The counts of one inference, from those after the answer before, after one more, and after another five."""
    return {kind: round(((long[kind] - short[kind]) - (short[kind] - before[kind])) / 4) for kind in before}


def _executorch(path: Path, sparse: bool) -> list[str]:
    runner = build.runner("aarch64-linux-gnu-g++", sysroot.root() / "site" / "executorch")
    return [str(runner), str(path.absolute()), "1", *(["--sparse"] if sparse else [])]


def _python(target: str, path: Path) -> list[str]:
    opener = {"onnx": onnx_session, "litert": litert, "mnn": mnn}[target].__file__
    program = [str(build.NATIVE / "guest.py"), wire.__file__, str(opener), str(path.absolute())]
    return [*sysroot.python(sysroot.root()), *program]


def _emulate(
    path: Path, program: list[str], requests: Sequence[Request], time_limit: float, report: Callable[[int], None]
) -> tuple[list[tuple[dict[str, Any], list[np.ndarray]]], list[dict[str, int]]]:
    """Has the emulated program answer the requests: its answers, and the counts as each was written.

    report: called with the number of answers so far.
    """
    who = f"{path.name} on an emulated {CPU}"
    asked = io.BytesIO()
    for header, arrays in requests:
        wire.send(asked, header, arrays)
    deadline = time.monotonic() + time_limit
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts, answers, chatter = folder / "counts", folder / "answers", folder / "chatter"
        (folder / "requests").write_bytes(asked.getvalue())
        plugin = ["-plugin", f"{build.counter()},out={counts}"]
        with (
            (folder / "requests").open(encoding="utf-8") as stdin,
            answers.open("w", encoding="utf-8") as stdout,
            chatter.open("w", encoding="utf-8") as stderr,
        ):
            process = subprocess.Popen(
                ends_with_us(sysroot.emulated(program, sysroot.root(), plugin)),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=sysroot.environment(sysroot.root()),
                start_new_session=True,  # Ctrl-C is for us
            )
            try:
                _watch(process, counts, deadline, len(requests), report)
            except TimeoutError:
                raise WorkerFailed(f"{who} hung: not through after {time_limit:g} s", path, "hung") from None
            finally:
                process.kill()
                process.wait()
        received = _answers(answers)
        error = next((header["error"] for header, _ in received if "error" in header), None)
        if error:
            raise WorkerFailed(f"{who} failed: {error}", path)
        if process.returncode or len(received) < len(requests):
            raise WorkerFailed(f"{who} {_end(process.returncode)}{_last_words(chatter)}", path, "ended")
        return received, _readings(counts)


def _watch(
    process: subprocess.Popen[bytes], counts: Path, deadline: float, requests: int, report: Callable[[int], None]
) -> None:
    """Waits for the program to end, and reports how far it is; raises TimeoutError at the deadline."""
    done = 0
    report(done)
    while True:
        try:
            process.wait(timeout=min(0.2, max(deadline - time.monotonic(), 0)))
        except subprocess.TimeoutExpired:
            answered = min(len(_readings(counts)), requests)
            if answered > done:
                done = answered
                report(done)
            if time.monotonic() > deadline:
                raise TimeoutError from None
        else:
            return


def _readings(counts: Path) -> list[dict[str, int]]:
    try:
        return [
            json.loads(line)
            for line in counts.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n")
        ]
    except FileNotFoundError:
        return []


def _answers(file: Path) -> list[tuple[dict[str, Any], list[np.ndarray]]]:
    answers = []
    with file.open("rb") as stream:
        while True:
            try:
                answers.append(wire.receive(stream))
            except EOFError:
                return answers


def _end(code: int) -> str:
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


def _last_words(chatter: Path) -> str:
    lines = [
        line.strip() for line in chatter.read_text(errors="replace", encoding="utf-8").splitlines() if line.strip()
    ]
    return f"; its last words: {'; '.join(lines[-3:])}" if lines else ""


def _emulator() -> str:
    answer = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True)
    return "qemu-user " + answer.stdout.split("version ")[1].split()[0]
