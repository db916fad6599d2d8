"""A device is another machine with an ssh server: here this one, through a real sshd on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from dwindle.bench import Bench, bench
from dwindle.bench.devices import ssh as boards
from dwindle.bench.devices import sysroot
from dwindle.bench.devices.registry import reach
from dwindle.bench.devices.ssh import SshBoard
from dwindle.bench.missing import Missing
from dwindle.bench.process import Worker
from dwindle.bench.result import COMPRESSED, DENSE, Row
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest

Export = Callable[..., Manifest]
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
needs_sshd = pytest.mark.needs("ssh")
needs_compiler = pytest.mark.needs("compiler")


class Server:
    """An sshd of our own, which only knows the key that its client has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"ssh://127.0.0.1:{self.port}"
        for name in ("host", "user"):
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(made, check=True)
        host_key = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (folder / "tmp").mkdir()
        python = folder / "bin"
        python.mkdir()
        # A Python with packages, but without the dwindle that is installed beside them: -S reads no .pth files.
        site = Path(np.__file__).parents[1]
        (python / "python3").write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n')
        (python / "python3").chmod(0o755)
        # A home of its own: a shell's start-up files change the path, and take seconds on some machines.
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {folder}/user.pub\nAuthenticationMethods publickey\n"
            f"SetEnv HOME={folder} TMPDIR={folder}/tmp PATH={python}:/usr/bin:/bin\n"
        )
        (folder / "ssh_config").write_text(
            f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a privileged sshd wants to lock itself up

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=(self.folder / "log").open("w"),
            start_new_session=True,
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail((self.folder / "log").read_text())

    def stop(self) -> None:
        """Connections and what runs in them included: a device that lost its power."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it may be ending by itself
                    child.kill()
            self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Running, with an `ssh` first on the path that reads the test's configuration and is otherwise the real one."""
    folder = tmp_path / "device"
    folder.mkdir()
    made = Server(folder)
    wrapped = tmp_path / "bin"
    wrapped.mkdir()
    (wrapped / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    (wrapped / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapped}:{os.environ['PATH']}")
    made.start()
    yield made
    made.stop()


def one(found: Bench, target: str, role: str, device: str | None) -> Row:
    (row,) = (row for row in found.find(target, role) if row.runtime.device == device)
    return row


@needs_sshd
@needs_compiler
@pytest.mark.usefixtures("short_slices")
@pytest.mark.slow
def test_files_are_measured_on_the_other_machine(
    server: Server,
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    pte_files: tuple[Path, Path],
    nets: tuple[nn.Module, nn.Module],
) -> None:
    """Both runtimes, their figures labelled with the device; a later bench of this machine keeps them."""
    from blobs import Blobs  # type: ignore[import-not-found]
    from rich.console import Console

    from dwindle.bench.machine import this_machine
    from dwindle.bench.views.table import bench_table

    export("onnx", *onnx_files)
    export("executorch", *pte_files)
    found = bench(checkpoint, devices=[server.url])
    for target, name in (("onnx", "onnxruntime"), ("executorch", "executorch")):
        for role, net in zip((DENSE, COMPRESSED), nets, strict=True):
            row = one(found, target, role, server.url)
            assert row.runtime.name == name
            assert row.runtime.version
            assert row.latency is not None
            assert row.latency.min > 0
            assert row.memory_bytes is not None
            assert row.noise is not None
            assert row.accuracy is not None
            assert row.accuracy.value == Blobs().evaluate(net, "test")
            assert (row.compare is None) == (role == DENSE)
            assert row.parity is not None
            assert row.parity.relative < 1e-5
            assert row.runtime.machine is not None
            assert row.runtime.machine.cores == os.sysconf("SC_NPROCESSORS_ONLN")
            assert row.runtime.machine.system == this_machine().system
            assert one(found, target, role, None).latency is None
    assert one(found, "executorch", DENSE, server.url).runtime.through == "native runner"
    assert reach(server.url).failure(found) is None
    assert Bench.load(checkpoint.bench_path) == found
    assert list((server.folder / "tmp").iterdir()) == []
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(found))
    assert f"native runner, on {server.url} (" in capture.get()

    server.stop()
    later = bench(checkpoint)
    for target in ("onnx", "executorch"):
        assert one(later, target, COMPRESSED, server.url) == one(found, target, COMPRESSED, server.url)
        assert one(later, target, COMPRESSED, None).latency is not None


@pytest.mark.slow
@needs_sshd
@needs_compiler
@pytest.mark.usefixtures("short_slices")
def test_of_a_device_that_vanishes_what_it_told_is_kept(
    server: Server,
    checkpoint: Checkpoint,
    export: Export,
    onnx_files: tuple[Path, Path],
    pte_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of the second runtime's measurement."""
    time_slice = Worker.time

    def cut(worker: Worker, iterations: int) -> object:
        if worker.runtime.startswith("onnxruntime on"):
            server.stop()
        return time_slice(worker, iterations)

    monkeypatch.setattr(Worker, "time", cut)
    export("onnx", *onnx_files)
    export("executorch", *pte_files)
    assert main(["bench", str(checkpoint.path), "--device", server.url]) == RuntimeUnavailable.exit_code
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"no latency of exports/onnx/dense.onnx on {server.url}: onnxruntime on {server.url} on dense.onnx" in said
    kept = Bench.load(checkpoint.bench_path)
    assert one(kept, "executorch", COMPRESSED, server.url).accuracy is not None
    for role in (DENSE, COMPRESSED):
        assert one(kept, "onnx", role, server.url).latency is None
        assert server.url in one(kept, "onnx", role, server.url).reasons["latency"]


@pytest.mark.slow
@needs_sshd
@pytest.mark.needs("mnn")
def test_mnn_runs_in_the_boards_python(
    server: Server, checkpoint: Checkpoint, export: Export, nets: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    from dwindle.export.fold import deployable
    from dwindle.export.mnn.target import MNN

    files = [tmp_path / name for name in ("dense.mnn", "net.mnn")]
    example = (torch.zeros(1, 1, 8, 8),)
    for net, path in zip(nets, files, strict=True):
        MNN().write(deployable(net, example), example, path, pack=True)
    export("mnn", *files)
    found = bench(checkpoint, devices=[server.url])
    for role in (DENSE, COMPRESSED):
        row = one(found, "mnn", role, server.url)
        assert (row.runtime.name, row.reasons.get("latency")) == ("mnn", None)
        assert row.latency is not None


@needs_sshd
def test_a_device_that_is_not_there_changes_nothing(
    server: Server, checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    server.stop()
    export("onnx", *onnx_files)
    with pytest.raises(RuntimeUnavailable, match="Connection refused") as refused:
        bench(checkpoint, devices=["host", server.url])
    assert (refused.value.code, refused.value.name) == ("unreachable", server.url)
    assert not checkpoint.bench_path.exists()


@needs_sshd
def test_a_stranger_is_not_trusted(server: Server) -> None:
    (server.folder / "known").write_text("")
    with pytest.raises(RuntimeUnavailable, match="Host key verification failed") as refused, SshBoard(server.url):
        pass
    assert refused.value.code == "unreachable"


@needs_sshd
def test_nor_are_we_without_a_key_it_knows(server: Server) -> None:
    (server.folder / "user.pub").write_text("")
    with pytest.raises(RuntimeUnavailable, match=r"Permission denied \(publickey\)") as refused, SshBoard(server.url):
        pass
    assert refused.value.code == "unreachable"


@needs_sshd
def test_what_the_device_lacks_is_named(
    server: Server, checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", *onnx_files)
    (server.folder / "bin" / "python3").write_text("#!/bin/sh\necho 'No module named onnxruntime' >&2; exit 1\n")
    found = bench(checkpoint, devices=[server.url])
    wrong = reach(server.url).failure(found)
    assert wrong is not None
    assert (wrong.code, wrong.name) == ("unmeasured", server.url)
    assert "No module named onnxruntime; onnx files need Python 3.11" in str(wrong)


@needs_sshd
@pytest.mark.parametrize(
    ("architecture", "code", "says"),
    [("riscv64", "unknown-architecture", "riscv64"), ("aarch64", "missing", "run `dwindle doctor --setup arm64`")],
)
def test_a_board_without_a_runner_is_told_why(
    server: Server, architecture: str, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysroot, "missing", lambda: Missing("it isn't", sysroot.SETUP))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with SshBoard(server.url) as board:
        board.architecture = architecture
        with pytest.raises(RuntimeUnavailable, match=says) as refused:
            boards._native(board)
    assert (refused.value.code, refused.value.name) == (code, server.url)


@pytest.mark.slow
@needs_sshd
@pytest.mark.needs("arm64")
def test_an_aarch64_board_gets_an_aarch64_runner(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied is looked at; no such board is here to run it."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with SshBoard(server.url) as board:
        board.architecture = "aarch64"
        program = boards._native(board)
        copied = sorted(Path(board.folder).iterdir())
        assert program.words == (f"{board.folder}/runner",)
        assert {file.name for file in copied} >= {"runner", "libexecutorch.so", "libexecutorch_backend_xnnpack.so"}
        for file in copied:
            assert file.read_bytes()[18:20] == b"\xb7\x00", file.name  # ELF's e_machine: EM_AARCH64


@pytest.mark.parametrize(
    "url",
    [
        "ssh://",
        "ssh://-oProxyCommand=touch",
        "ssh://-l@board",
        "ssh://pi:secret@board",
        "ssh://board/path",
        "ssh://board:port",
        "ssh://a b",
        "ssh://board;ls",
        "ssh://board\n",
    ],
)
def test_what_is_no_address_is_refused(url: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError) as refused:
        bench(checkpoint, devices=[url])
    assert (refused.value.code, refused.value.name) == ("malformed-name", url)


def test_another_protocol_is_not_known(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError) as refused:
        bench(checkpoint, devices=["ftp://board"])
    assert (refused.value.code, refused.value.name) == ("unknown-name", "ftp")


@pytest.mark.parametrize(
    "url", ["ssh://board", "ssh://pi@board.local:2222", "ssh://pi@[fe80::1]:22", "ssh://10.0.0.2/"]
)
def test_addresses(url: str) -> None:
    command = SshBoard(url).transport.command(["echo", "a b"], {"X": "1 2"})
    assert command[0] == "ssh"
    assert command[-3:] == ["--", url.rstrip("/"), "env 'X=1 2' echo 'a b'"]
    assert "BatchMode=yes" in command
