"""An Android device through the real adb client. No such device is here: a double of its daemon answers, which runs
everything on this machine. What a phone's Linux would say is in tests of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from dwindle.bench import bench, build
from dwindle.bench.devices.adb import RUNNER, Adb, AdbBoard
from dwindle.bench.devices.conditions import SCRIPT, conditions, pinning
from dwindle.bench.devices.registry import reach
from dwindle.bench.result import COMPRESSED, DENSE
from dwindle.checkpoint import Checkpoint
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]
needs_adb = pytest.mark.needs("adb")
needs_compiler = pytest.mark.needs("compiler")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of the double, connected to an adb server of the test's own."""
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("HOME", str(tmp_path))  # where adb keeps its key
    monkeypatch.setattr(Adb, "scratch", str(tmp_path))
    daemon = subprocess.Popen([sys.executable, str(Path(__file__).with_name("adb_double.py")), str(port)])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        subprocess.run(["adb", "connect", f"127.0.0.1:{port}"], check=True, capture_output=True, timeout=60)
        yield f"adb://127.0.0.1:{port}"
    finally:
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=60)
        daemon.kill()
        daemon.wait()


@pytest.mark.slow
@needs_adb
@needs_compiler
@pytest.mark.usefixtures("short_slices")
def test_files_are_measured_through_a_double_of_the_daemon(
    double: str,
    checkpoint: Checkpoint,
    export: Export,
    pte_files: tuple[Path, Path],
    nets: tuple[nn.Module, nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from blobs import Blobs  # type: ignore[import-not-found]

    monkeypatch.setenv(RUNNER, str(build.runner()))
    export("executorch", *pte_files)
    found = bench(checkpoint, devices=[double])
    for role, net in zip((DENSE, COMPRESSED), nets, strict=True):
        (row,) = (row for row in found.find("executorch", role) if row.runtime.device == double)
        assert (row.runtime.through or "").startswith("native runner")
        assert row.latency is not None
        assert row.latency.cpu_median is not None
        assert row.accuracy is not None
        assert row.accuracy.value == Blobs().evaluate(net, "test")
        assert row.parity is not None
        assert row.parity.relative < 1e-5
    assert reach(double).failure(found) is None
    assert list(tmp_path.glob("dwindle.*")) == []


@needs_adb
def test_what_fails_through_a_double_is_told_apart_from_what_is_not_there(double: str, tmp_path: Path) -> None:
    transport = Adb(double)
    assert transport.run(["cat"], b"\0\r\n\xc3\xa9 as it is", {"X": "1"}) == "\0\r\né as it is"
    assert transport.run(["sh", "-c", "echo $X"], variables={"X": "a b"}) == "a b\n"
    transport.put({"one": b"#!/bin/sh\necho ran\n"}, str(tmp_path))
    assert transport.run([f"{tmp_path}/one"]) == "ran\n"
    with pytest.raises(RuntimeUnavailable, match="it broke") as refused:
        transport.run(["sh", "-c", "echo it broke >&2; exit 3"])
    assert (refused.value.code, refused.value.name) == ("failed-there", double)
    with pytest.raises(RuntimeUnavailable, match="not found") as refused:
        Adb("adb://nobody").run(["true"])
    assert (refused.value.code, refused.value.name) == ("unreachable", "adb://nobody")


@pytest.mark.parametrize("runner", [None, "/nowhere/runner"])
def test_without_a_runner_its_variable_is_named(runner: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RUNNER, raising=False)
    if runner:
        monkeypatch.setenv(RUNNER, runner)
    (runtime,) = AdbBoard("adb://phone").runtimes()
    assert RUNNER in str(runtime.check())
    assert [runtime.target] == list(AdbBoard.targets) == ["executorch"]
    assert (AdbBoard.incomplete() is None) == (runner is not None)


def test_without_adb_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="apt-get install adb") as refused:
        Adb("adb://phone").run(["true"])
    assert (refused.value.code, refused.value.name) == ("missing", "adb://phone")
    missing = AdbBoard.check()
    assert missing is not None
    assert missing.command == "apt-get install adb"


@pytest.mark.parametrize("url", ["adb://", "adb://-d", "adb://a b", "adb://a;b", "adb://phone\n"])
def test_what_is_no_serial_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        AdbBoard(url)
    assert (refused.value.code, refused.value.name) == ("malformed-name", url)


PHONE = """
clock 0 1800000 1800000 schedutil
clock 4 2800000 1500000 schedutil
clock 5 2800000 1500000 schedutil
heat cpu-0-0 41200
heat broken
power Not charging 83
pin
"""


def test_what_a_phone_says_of_itself_is_put_in_words() -> None:
    assert conditions(PHONE) == {
        "cpufreq": "cpu0 1.80 of 1.80 GHz, schedutil; cpu4 1.50 of 2.80 GHz, schedutil; "
        "cpu5 1.50 of 2.80 GHz, schedutil",
        "thermal": "cpu-0-0 41.2 °C",
        "battery": "83%, not charging",
    }
    assert conditions("") == {}


@pytest.mark.parametrize(("threads", "mask"), [(1, "10"), (2, "30"), (3, "31")])
def test_a_run_is_kept_to_the_fastest_cores(threads: int, mask: str) -> None:
    assert pinning(PHONE, threads) == ("taskset", mask)
    assert pinning(PHONE.replace("pin", ""), threads) == ()
    assert pinning(PHONE.replace("1800000", "2800000"), threads) == ()


@pytest.mark.needs("Linux")
def test_any_linux_answers_the_questions() -> None:
    done = subprocess.run(["sh", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert isinstance(conditions(done.stdout), dict)
    pinning(done.stdout, 1)
