"""Macs, iPhones and iPads as devices, through coremltools on a Mac: whichever of their units Core ML takes.

`apple://mac` is the Mac itself, anything else names a connected device as Xcode knows it (by its name or UDID), to
which coremltools brings an app of its own. Written against coremltools 9; it has not been run on Apple hardware.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dwindle.bench.machine import this_machine
from dwindle.bench.result import Machine
from dwindle.bench.runtime import Launch
from dwindle.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

SCHEME = "apple://"
MAC = "mac"
TARGET = "coreml"


def unavailable() -> str | None:
    """Why nothing can be measured on Apple's devices from here, in words; None where it can."""
    if (system := platform.system()) != "Darwin":
        return f"Core ML runs on Apple's systems and is reached from a Mac, and this is {system}"
    return None if find_spec("coremltools") else "the package coremltools is not installed"


def connected(name: str) -> Any:
    """coremltools' own `Device` of that name or UDID; raises RuntimeUnavailable where this Mac has no such one."""
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceState

    here = [device for device in Device.get_devices() if device.state == DeviceState.CONNECTED]
    for device in here:
        if name in (device.name, device.udid):
            return device
    there = ", ".join(device.name for device in here) or "none"
    raise RuntimeUnavailable(f"{SCHEME}{name} is not connected to this Mac (connected: {there})")


class Apple:
    """A context manager, since every device is one."""

    targets = (TARGET,)

    def __init__(self, url: str) -> None:
        """Raises UsageError where it names no device."""
        self.url, self.name = url, url.removeprefix(SCHEME)
        if not self.name:
            raise UsageError(f"{url!r} names no device: write {SCHEME}{MAC}, or {SCHEME} and a connected device's name")

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where this isn't a Mac, or no such device is connected to it."""
        if reason := unavailable():
            raise RuntimeUnavailable(f"{self.url}: {reason}")
        here = this_machine()
        if self.name == MAC:
            self.machine = Machine(here.cpu, here.cores, f"macOS {platform.mac_ver()[0]}")
            return self
        chosen = connected(self.name)
        self.machine = Machine(str(chosen.type.value), 1, f"{chosen.name}, {chosen.os_version}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # coremltools ends its app

    def busy(self) -> Reading:
        """This Mac's; what else a phone does, nobody tells."""
        from dwindle.bench.measure import Reading, here

        return here() if self.name == MAC else Reading(math.nan, 0.0)

    def runtimes(self) -> Sequence[InCoreML]:
        return [InCoreML(self)]


@dataclass(frozen=True)
class InCoreML:
    """A Runtime on one of them."""

    device: Apple
    name: str = "coreml"
    target: str = TARGET

    def unavailable(self) -> str | None:
        return unavailable()

    def launch(self, path: Path, threads: int) -> Launch:
        # Core ML schedules itself: `threads` means nothing to it.
        return Launch(
            [sys.executable, "-P", "-m", "dwindle.bench.devices.apple_worker", self.device.name, str(path)], None
        )
