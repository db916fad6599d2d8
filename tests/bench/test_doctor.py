"""What is here is named with its version, and what isn't with the command that adds it."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dwindle.bench import doctor
from dwindle.bench.devices import sysroot, web
from dwindle.bench.devices.adb import AdbBoard
from dwindle.bench.devices.arm64 import Arm64
from dwindle.bench.devices.browser import Browser
from dwindle.bench.devices.cuda import Cuda
from dwindle.bench.devices.host import Host
from dwindle.bench.devices.registry import device_kinds
from dwindle.bench.devices.ssh import SshBoard
from dwindle.bench.doctor import Finding, doctor_table, lacking
from dwindle.bench.missing import Missing
from dwindle.cli import main
from dwindle.errors import RuntimeUnavailable, UsageError


def one(findings: list[Finding], name: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.name == name)
    return finding


def shown(findings: list[Finding]) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(doctor_table(findings))
    return capture.get()


@pytest.fixture
def wanting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that wants one package it hasn't, one newer than there is, and an extra of each kind."""
    lines = ["numpy>=2", "numpy-of-tomorrow>=3", "torch>=99", 'rich>=15; extra == "here"', 'tqdm>=999; extra == "gone"']
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    described = {"Provides-Extra": ["dev", "here", "gone"]}
    monkeypatch.setattr(doctor, "metadata", lambda name: type("", (), {"get_all": described.get}))


def test_packages_are_here_missing_or_too_old(wanting: None) -> None:
    findings = list(doctor._packages())
    assert [finding.name for finding in findings] == ["dwindle", "python", "numpy", "numpy-of-tomorrow", "torch"]
    assert one(findings, "numpy").found == version("numpy")
    missing, old = one(findings, "numpy-of-tomorrow"), one(findings, "torch")
    assert missing.found is old.found is None
    assert missing.reason == "not installed"
    assert missing.command == 'pip install "numpy-of-tomorrow>=3"'
    assert old.reason == f"{version('torch')} is installed, and dwindle needs >=99"
    wrong = lacking(findings)
    assert isinstance(wrong, RuntimeUnavailable)
    assert 'numpy-of-tomorrow, torch cannot be used: pip install "numpy-of-tomorrow>=3"; pip' in str(wrong)
    assert lacking([one(findings, "numpy")]) is None
    lines = [line.strip() for line in shown(findings).splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("numpy-of-tomorrow"))
    assert lines[at].endswith("not installed")
    assert lines[at + 1] == '→ pip install "numpy-of-tomorrow>=3"'
    assert "extras" not in lines


def test_extras_are_whole_or_say_what_they_lack(wanting: None) -> None:
    found, gone = doctor._extras()
    assert (found.name, found.found) == ("here", f"rich {version('rich')}")
    assert (gone.name, gone.found, gone.command) == ("gone", None, 'pip install "dwindle[gone]"')
    assert gone.reason is not None
    assert gone.reason.startswith("tqdm: ")


def test_runtimes_are_imported_to_be_believed(
    odd_runtimes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dwindle.bench.runtimes.runtime import load

    assert doctor._runtime(load("odd")) == Finding("runtime", "odd", "1.0 for odd files")
    assert doctor._runtime(load("absent")) == Finding("runtime", "absent", None, "its hardware is elsewhere", "buy it")
    module = tmp_path / "site" / "odd_runtime.py"
    module.write_text(module.read_text().replace('return "1.0"', 'raise ImportError("libodd.so.1 is not there")'))
    broken = doctor._runtime(load("odd"))
    assert broken.reason == "it cannot be imported: ImportError: libodd.so.1 is not there"


@pytest.mark.slow
def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it, as the command prints it."""
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    findings = [Finding(**entry) for entry in json.loads(out)]
    assert {finding.group for finding in findings} >= {"package", "runtime", "device"}
    assert all(finding.found or finding.reason for finding in findings)
    assert one(findings, "numpy").found == version("numpy")
    assert f"onnxruntime {version('onnxruntime')}" in str(one(findings, "export").found)
    assert one(findings, "onnxruntime").found == f"{version('onnxruntime')} for onnx files"
    assert "cores" in (one(findings, "host").found or "")
    for finding in findings:
        assert finding.name in err


def test_a_broken_torch_is_a_finding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    host = doctor._device(Host)
    assert "PyTorch cannot be imported" in (host.reason or "")
    assert "cores" in (host.found or "")
    assert doctor._device(Cuda) == Finding("device", "cuda", None, "PyTorch cannot be imported")


@pytest.mark.parametrize("missing", [Missing("it is not set up", sysroot.SETUP), Missing("there is no apt-get")])
def test_what_is_missing_is_told_with_its_command(missing: Missing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysroot, "missing", lambda: missing)
    assert doctor._device(Arm64) == Finding("device", "arm64", None, missing.reason, missing.command)


def test_what_has_not_met_its_hardware_is_experimental(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {kind.scheme for kind in device_kinds() if kind.not_yet_run_on} == {"adb", "apple", "qualcomm"}
    monkeypatch.setattr(shutil, "which", lambda name: None)
    finding = doctor._device(AdbBoard)
    assert (finding.found, finding.command) == (None, "apt-get install adb")
    assert finding.not_yet_run_on == "Android hardware"
    assert "experimental: it has not been run on Android hardware" in shown([finding])


def test_setup_refuses_with_the_missing_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "qemu-aarch64" else f"/usr/bin/{name}")
    monkeypatch.setattr(sysroot, "_KEYRING", tmp_path)
    assert main(["doctor", "--setup", "arm64"]) == RuntimeUnavailable.exit_code
    assert "apt-get install qemu-user" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_only_some_devices_are_set_up() -> None:
    with pytest.raises(UsageError, match="did you mean 'arm64'") as refused:
        doctor.setup("arm", print)
    assert (refused.value.code, refused.value.name, refused.value.option) == ("unknown-name", "arm", "setup")
    with pytest.raises(UsageError):
        doctor.setup("ssh", print)


def test_a_browser_lacks_one_thing_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    absent = doctor._device(Browser)
    assert (absent.reason, absent.command) == ("no Chromium is on the path", "apt-get install chromium")
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}" if name == "google-chrome" else None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(web, "find_spec", lambda name: object())
    assert doctor._device(Browser).command == "dwindle doctor --setup browser"
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    assert doctor._device(Browser).command == 'pip install "dwindle[browser]"'


def test_ssh_is_named_or_how_it_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor._device(SshBoard).command == "apt-get install openssh-client"
