import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from dwindle.bench.process import Worker, WorkerFailed

SAMPLE = [np.arange(4, dtype=np.float32).reshape(1, 4)]

pytestmark = pytest.mark.usefixtures("odd_runtimes")


def odd(tmp_path: Path, how: str, patience: float = 60) -> Worker:
    file = tmp_path / f"{how}.odd"
    file.write_text(how)
    return Worker("odd", file, patience=patience)


def test_chatter_on_stdout_does_not_reach_the_protocol(tmp_path: Path) -> None:
    with odd(tmp_path, "work") as worker:
        loaded = worker.load(SAMPLE)
        assert loaded.version == "1.0"
        np.testing.assert_array_equal(worker.infer(SAMPLE)[0], SAMPLE[0])
        piece = worker.time(5)
    assert piece.wall_ns.shape == piece.cpu_ns.shape == (5,)
    assert (piece.wall_ns > 0).all()


def test_arrays_larger_than_a_pipe_pass(tmp_path: Path) -> None:
    large = [np.random.default_rng(0).random((1, 1 << 20))]
    with odd(tmp_path, "work") as worker:
        worker.load(SAMPLE)
        np.testing.assert_array_equal(worker.infer(large)[0], large[0])


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("crash", "ended", r"odd on crash\.odd crashed \(SIGABRT\) while loading it.*about to fall over"),
        ("fault", "ended", r"odd on fault\.odd crashed \(SIGSEGV\) while loading it"),
        ("leave", "ended", r"odd on leave\.odd .*exit code 7"),
        ("refuse", "refused", r"odd on refuse\.odd .*ValueError: not a model"),
    ],
)
def test_a_failure_says_how_it_ended(tmp_path: Path, how: str, code: str, says: str) -> None:
    with odd(tmp_path, how) as worker, pytest.raises(WorkerFailed, match=says) as caught:
        worker.load(SAMPLE)
    assert (caught.value.code, caught.value.path, caught.value.file) == (code, worker.file, worker.file)


@pytest.mark.parametrize(
    ("ask", "doing"), [(lambda worker: worker.time(3), "timing"), (lambda worker: worker.infer(SAMPLE), "running")]
)
def test_a_crash_says_in_which_step(tmp_path: Path, ask: Callable[[Worker], object], doing: str) -> None:
    with odd(tmp_path, "killed") as worker:
        worker.load(SAMPLE)
        with pytest.raises(WorkerFailed, match=rf"odd on killed\.odd crashed \(SIGKILL\) while {doing} it") as caught:
            ask(worker)
    assert (caught.value.code, caught.value.exit_code) == ("ended", 1)


def test_a_hang_is_ended_after_the_patience(tmp_path: Path) -> None:
    with (
        odd(tmp_path, "hang", patience=1) as worker,
        pytest.raises(WorkerFailed, match="'load'") as caught,
    ):
        worker.load(SAMPLE)
    assert caught.value.code == "hung"


def test_what_a_hung_program_said_last_is_shown(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo waiting for a lock >&2; exec sleep 600"]
    with (
        Worker("odd", tmp_path / "net.odd", patience=1, command=command) as worker,
        pytest.raises(WorkerFailed, match="waiting for a lock") as caught,
    ):
        worker.load(SAMPLE)
    assert caught.value.code == "hung"


def test_a_refused_file_leaves_the_worker_able_to_answer(tmp_path: Path) -> None:
    with odd(tmp_path, "refuse") as worker:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="not a model"):
                worker.load(SAMPLE)


def test_an_unknown_runtime_is_named_with_the_nearest(tmp_path: Path) -> None:
    with Worker("oddd", tmp_path) as worker, pytest.raises(WorkerFailed, match="did you mean 'odd'"):
        worker.load(SAMPLE)


STARTS = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(child.pid, file=sys.stderr, flush=True)
child.wait()
"""


@pytest.mark.slow
def test_a_hung_program_ends_with_what_it_started(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS]
    with (
        Worker("odd", tmp_path / "net.odd", patience=5, command=command) as worker,
        pytest.raises(WorkerFailed) as caught,
    ):
        worker.load(SAMPLE)
    child = int(str(caught.value).split()[-1])  # its last words
    deadline = time.monotonic() + 30  # the kernel ends a killed process in its own time, after `kill` has returned
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(child)


def runs(process: int) -> bool:
    """Whether a process still runs; one that has ended but that nobody has waited for doesn't."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


KILLED = """
import sys, time
from pathlib import Path
from dwindle.bench.process import Worker
worker = Worker("odd", Path("net.odd"), command=["sleep", "600"])
print(worker._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.needs("setpriv")
def test_a_killed_bench_leaves_no_worker_even_one_that_reads_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        worker = psutil.Process(int(killed.stdout.readline()))
        deadline = time.monotonic() + 60
        while worker.name() != "sleep":  # setpriv has to become it first
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.kill()
    _, alive = psutil.wait_procs([worker], timeout=10)
    for process in alive:
        process.kill()
    assert alive == []


def test_nothing_is_left_running(tmp_path: Path) -> None:
    worker = odd(tmp_path, "work")
    pid = worker._process.pid
    worker.load(SAMPLE)
    with pytest.raises(KeyboardInterrupt), worker:
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
