"""Devices by their names: whatever is measured on besides this machine itself and its ARM64 emulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dwindle.bench.devices import apple, qualcomm
from dwindle.bench.devices.board import Board
from dwindle.bench.devices.browser import BROWSER, Browser
from dwindle.bench.devices.cuda import CUDA, Cuda
from dwindle.bench.result import HOST, Bench, Row
from dwindle.bench.runtime import Device, unreported
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError
from dwindle.registry import unknown

ARM64 = "arm64"
LOCAL = (HOST, ARM64)
SCHEMES: dict[str, Callable[[str], Device]] = {apple.SCHEME: apple.Apple, qualcomm.SCHEME: qualcomm.AIHub}


def reach(name: str) -> Device:
    """The device of that name, which entering it connects; raises UsageError for what is no name of one."""
    for scheme, device in SCHEMES.items():
        if name.startswith(scheme):
            return device(name)
    if "://" in name:
        return Board(name)
    if name.partition(":")[0] == BROWSER:
        return Browser(name)
    if name == CUDA:
        return Cuda()
    raise UsageError(
        unknown(
            "device", name, [*LOCAL, CUDA, BROWSER, "ssh://user@host", "adb://serial", "apple://mac", "qualcomm://name"]
        )
    )


def failure(bench: Bench, name: str) -> DwindleError | None:
    """What is wrong after a device was asked for: it told nothing, vanished, can't run a file, or computes another."""
    device = reach(name)
    rows = [row for row in bench.rows if row.runtime.device == device.url]
    if not rows:
        takes = " or ".join(device.targets)
        return RuntimeUnavailable(f"nothing was measured on {device.url}, which takes {takes} files: export them")
    for row in rows:
        for figure, value in (("latency", row.latency), ("accuracy", row.accuracy)):
            if value is None and figure not in unreported(device):
                return RuntimeUnavailable(f"no {figure} of {row.artifact.path} on {device.url}: {row.reasons[figure]}")
        same = row.parity
        if same and same.tolerance is not None and not same.relative <= same.tolerance:
            return ParityFailed(
                f"{row.artifact.path} computes something else on {device.url} than here: outputs differ by "
                f"{same.relative:.1e} of the largest, and {same.tolerance:.0e} is allowed"
            )
    return None


def unreached(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The files that phones of these makers would run and that none has, as `wording.gaps` lists what is missing."""
    found = []
    for scheme, hardware, targets, reason in (
        (apple.SCHEME, "Apple", (apple.TARGET,), apple.unavailable()),
        (qualcomm.SCHEME, "Qualcomm", tuple(qualcomm.RUNTIMES), qualcomm.unavailable()),
    ):
        files = dict.fromkeys(row.target for row in rows if row.target in targets)
        if files and not any((row.runtime.device or "").startswith(scheme) for row in rows):
            why = reason or f"run `dwindle bench --device {scheme}NAME`"
            why = f"it has not been run on {hardware} hardware: {why}"
            found.append((", ".join(files), f"all on {hardware} devices", why))
    return found
