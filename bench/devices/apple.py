"""Macs, iPhones and iPads as devices, through coremltools on a Mac: whichever of their units Core ML takes.

`apple://mac` is the Mac itself, anything else names a connected device as Xcode knows it (by its name or UDID), to
which coremltools brings an app of its own. Written against coremltools 9; it has not been run on Apple hardware.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from dwindle.bench.devices.device import Device
from dwindle.bench.launch import Launch, python_module
from dwindle.bench.machine import Reading, busy_here, this_machine
from dwindle.bench.missing import Missing
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.errors import RuntimeUnavailable

MAC = "mac"


def connected(name: str) -> Any:
    """coremltools' own `Device` of that name or UDID; raises RuntimeUnavailable where this Mac has none."""
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceState

    here = [device for device in Device.get_devices() if device.state == DeviceState.CONNECTED]
    for device in here:
        if name in (device.name, device.udid):
            return device
    there = ", ".join(device.name for device in here) or "none"
    raise RuntimeUnavailable(
        f"apple://{name} is not connected to this Mac (connected: {there})", code="unreachable", name=f"apple://{name}"
    )


class Apple(Device):
    """`apple://mac`, which is the Mac itself, or a device that is connected to it."""

    scheme = "apple"
    usage = "apple://mac, apple://NAME"
    summary = "a Mac, or an iPhone or iPad connected to it, by Core ML"
    targets = ("coreml",)
    not_yet_run_on = "Apple hardware"

    def __init__(self, name: str) -> None:
        self.url, self.name = name, name.removeprefix("apple://")
        if not name.startswith("apple://") or not self.name:
            raise self.malformed(name, "write `apple://mac`, or `apple://` and a connected device's name")

    @classmethod
    def check(cls) -> Missing | None:
        if (system := platform.system()) != "Darwin":
            return Missing(f"Core ML runs on Apple's systems and is reached from a Mac, and this is {system}")
        if find_spec("coremltools"):
            return None
        return Missing("the package coremltools is not installed", "pip install coremltools")

    @classmethod
    def found(cls) -> str:
        return "apple://mac, and what is connected to it"

    def __enter__(self) -> Self:
        super().__enter__()
        if self.name == MAC:
            here = this_machine()
            self.machine = Machine(here.cpu, here.cores, f"macOS {platform.mac_ver()[0]}")
        else:
            chosen = connected(self.name)
            self.machine = Machine(str(chosen.type.value), 1, f"{chosen.name}, {chosen.os_version}")
        return self

    def busy(self) -> Reading:
        """How busy the Mac is; a connected device doesn't say."""
        return busy_here() if self.name == MAC else Reading(math.nan, 0.0)

    def runtimes(self) -> Sequence[InCoreML]:
        return [InCoreML(self.name)]


@dataclass(frozen=True)
class InCoreML(Launcher):
    """Core ML on a Mac or a device connected to it."""

    device: str
    name: str = "coreml"
    target: str = "coreml"

    def check(self) -> Missing | None:
        return Apple.check()

    def launch(self, path: Path, threads: int) -> Launch:
        """Starts the benchmarker. `threads` has no effect, since Core ML schedules itself."""
        return Launch(python_module("dwindle.bench.devices.apple_worker", self.device, str(path)))
