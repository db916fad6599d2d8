"""A browser on this machine as a device: exported files in WebAssembly, as a page on a phone would run them.

The page sees a phone's screen; the CPU is this machine's, or a slower one that Chromium imitates by stopping the
page's thread for part of the time (DevTools' CPU throttling). Neither is a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dwindle.bench.devices import web
from dwindle.bench.devices.device import Device
from dwindle.bench.launch import Launch, python_module
from dwindle.bench.machine import this_machine
from dwindle.bench.missing import Missing
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import Launcher

RUNTIMES = {"onnx": "onnxruntime-web", "litert": "litert.js"}
"""The runtime that runs a target's files in a page (see inference.html), by target."""


class Browser(Device):
    """`browser`, or `browser:4` for one whose CPU is throttled four times. Every worker has a browser of its own."""

    scheme = "browser"
    usage = "browser[:RATE]"
    summary = "a page in this machine's Chromium, RATE times slower"
    targets = tuple(RUNTIMES)
    setup_downloads = "37 MB from npm"

    def __init__(self, name: str) -> None:
        _, throttled, rate = name.partition(":")
        try:
            self.throttle = float(rate) if throttled else 1.0
        except ValueError:
            self.throttle = 0.0
        if not 1 <= self.throttle <= 100:
            raise self.malformed(name, "write `browser`, or `browser:4` for one that is 4 times slower (100 at most)")
        self.url = self.scheme if self.throttle == 1 else f"{self.scheme}:{self.throttle:g}"

    @classmethod
    def check(cls) -> Missing | None:
        return web.missing()

    @classmethod
    def found(cls) -> str:
        packages = ", ".join(f"{package.name} {package.version}" for package in web.PACKAGES)
        return f"{web.browser_version()}, with {packages}"

    @classmethod
    def setup(cls, progress: Callable[[str], None]) -> Path:
        return web.setup(progress)

    def __enter__(self) -> Self:
        super().__enter__()
        here, slowed = this_machine(), f", CPU throttled {self.throttle:g}×" if self.throttle > 1 else ""
        self.machine = Machine(here.cpu, here.cores, f"{here.system}, {web.browser_version()}{slowed}")
        return self

    def runtimes(self) -> Sequence[InPage]:
        return [InPage(name, target, self.throttle) for target, name in RUNTIMES.items()]


@dataclass(frozen=True)
class InPage(Launcher):
    """A runtime in a page."""

    name: str
    target: str
    throttle: float

    def check(self) -> Missing | None:
        return web.missing()

    def launch(self, path: Path, threads: int) -> Launch:
        arguments = (self.name, str(path), str(threads), str(self.throttle))
        return Launch(python_module("dwindle.bench.devices.page_worker", *arguments))
