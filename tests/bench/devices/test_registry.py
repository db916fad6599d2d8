"""Devices by their names; and that one of another package is known everywhere by its class and entry point alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dwindle.bench import Bench, bench, doctor, gate
from dwindle.bench.devices.registry import GROUP, device_help, device_kind, device_kinds, reach, require_options
from dwindle.bench.result import COMPRESSED
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import UsageError

BOARD = """
from dwindle.bench.devices.device import Device
from dwindle.bench.launch import python_worker, Launch
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Launcher

class Lamp(Device):
    scheme = "lamp"
    usage = "lamp://ROOM"
    summary = "a lamp that computes"
    targets = ("onnx",)
    not_yet_run_on = "real lamps"
    options = frozenset({"profile"})
    setup_downloads = "2 MB from the lamp shop"
    lit = True

    def __init__(self, name):
        if not name.startswith("lamp://"):
            raise self.malformed(name, "write `lamp://ROOM`")
        self.url = name

    @classmethod
    def check(cls):
        return None if cls.lit else Missing("it is dark", "lamp --on")

    @classmethod
    def found(cls):
        return "a lamp"

    @classmethod
    def setup(cls, progress):
        progress("screwing in")
        return __import__("pathlib").Path("/lamp")

    def runtimes(self):
        return [InLamp()]

class InLamp(Launcher):
    name = "lampruntime"
    target = "onnx"

    def check(self):
        return None

    def launch(self, path, threads):
        return Launch(python_worker("onnxruntime", path, threads), "by its filament")
"""


@pytest.fixture
def lamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs another package's device, as pip would."""
    site = tmp_path / "lamp_site"
    info = site / "lamp-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "lamp_device.py").write_text(BOARD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nlamp = lamp_device:Lamp\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "lamp_device", raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices", "lamp")
def test_another_package_s_device_is_measured_and_gated(
    checkpoint: Checkpoint, export: Callable[..., object], onnx_files: tuple[Path, Path], tmp_path: Path
) -> None:
    export("onnx", *onnx_files)
    found = bench(checkpoint, devices=["lamp://hall"])
    (row,) = (row for row in found.find("onnx", COMPRESSED) if row.runtime.device == "lamp://hall")
    assert (row.runtime.name, row.runtime.through) == ("lampruntime", "by its filament")
    assert row.latency is not None
    assert row.parity is not None
    assert row.parity.relative == 0
    assert reach("lamp://hall").failure(found) is None
    assert Bench.load(checkpoint.bench_path) == found
    (tmp_path / "gate.toml").write_text('[gate.device."lamp://hall"]\nmax_drop = 100\n')
    (check,) = gate(checkpoint, limits=tmp_path / "gate.toml").rows
    assert check.device == "lamp://hall"
    assert check.measured is not None


@pytest.mark.usefixtures("lamp")
def test_another_package_s_device_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lamp://ROOM: a lamp that computes (experimental)" in device_help()
    for command, said in (("bench", "lamp://ROOM"), ("doctor", "lamp (2 MB from the lamp shop)")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert said in " ".join(capsys.readouterr().out.split())
    finding = doctor._device(device_kind("lamp"))
    assert (finding.found, finding.not_yet_run_on) == ("a lamp", "real lamps")
    assert doctor.setup("lamp", print) == Path("/lamp")
    with pytest.raises(UsageError) as refused:
        reach("lamps://hall")
    assert "did you mean 'lamp'" in str(refused.value)


@pytest.mark.usefixtures("lamp")
def test_options_are_those_of_the_devices_that_were_given() -> None:
    require_options([reach("lamp://hall")], profile=True, sparse=False)
    with pytest.raises(UsageError, match="arm64") as refused:
        require_options([reach("lamp://hall"), reach("host")], sparse=True)
    assert (refused.value.code, refused.value.option) == ("no-effect", "sparse")


def test_what_is_registered_and_no_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("strange", "pathlib:Path", GROUP)
    monkeypatch.setattr("dwindle.registry.entries", lambda group: {entry.name: entry})
    with pytest.raises(UsageError) as refused:
        reach("strange://board")
    assert (refused.value.code, refused.value.name) == ("not-a-subclass", "strange")


def test_every_device_of_ours_declares_what_it_is() -> None:
    kinds = device_kinds()
    assert kinds[0].scheme == "host"
    assert {kind.scheme for kind in kinds} >= {"host", "arm64", "cuda", "browser", "ssh", "adb", "apple", "qualcomm"}
    for kind in kinds:
        assert kind.usage.startswith(kind.scheme)
        assert kind.summary
        assert kind.summary[-1] != "."
        assert kind.options <= {"sparse", "profile"}


@pytest.mark.parametrize("name", ["host:2", "arm64:4", "cuda:1", "browser://here", "ssh", "adb:serial"])
def test_a_name_that_only_begins_like_a_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        reach(name)
    assert (refused.value.code, refused.value.name) == ("malformed-name", name)


def test_help_about_devices_imports_nothing_heavy() -> None:
    heavy = "torch numpy onnxruntime executorch coremltools playwright sklearn scipy rich"
    code = (
        "import sys; from dwindle.bench.devices.registry import device_help; device_help(); "
        f"print([m for m in '{heavy}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
