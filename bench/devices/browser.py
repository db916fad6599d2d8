"""A browser on this machine as a device: exported files in WebAssembly, as a page on a phone would run them.

The page sees a phone's screen; the CPU is this machine's, or a slower one that Chromium imitates by stopping the
page's thread for part of the time (DevTools' CPU throttling). Neither is a phone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dwindle.bench.devices import web
from dwindle.bench.machine import this_machine
from dwindle.bench.result import Machine
from dwindle.bench.runtime import Launch
from dwindle.errors import RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

BROWSER = "browser"
RUNTIMES = {"onnx": "onnxruntime-web", "litert": "litert.js"}
"""By target: what runs its files in a page (see inference.html)."""


class Browser:
    """`browser`, or `browser:4` for one that is four times slower. A context manager, since every device is one."""

    targets = tuple(RUNTIMES)

    def __init__(self, name: str) -> None:
        """Raises UsageError for what is neither."""
        _, throttled, rate = name.partition(":")
        try:
            self.throttle = float(rate) if throttled else 1.0
        except ValueError:
            self.throttle = 0.0
        if not 1 <= self.throttle <= 100:
            raise UsageError(f"{name!r} is no browser: write {BROWSER}, or {BROWSER}:4 for one that is 4 times slower")
        self.url = BROWSER if self.throttle == 1 else f"{BROWSER}:{self.throttle:g}"

    def __enter__(self) -> Self:
        """Raises RuntimeUnavailable where there is none, or what runs files in it isn't there."""
        if reason := web.unavailable():
            raise RuntimeUnavailable(reason)
        here, slowed = this_machine(), f", CPU throttled {self.throttle:g}×" if self.throttle > 1 else ""
        self.machine = Machine(here.cpu, here.cores, f"{here.system}, {web.browser_version()}{slowed}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # every worker has a browser of its own

    def busy(self) -> Reading:
        from dwindle.bench.measure import here

        return here()

    def runtimes(self) -> Sequence[InPage]:
        return [InPage(name, target, self) for target, name in RUNTIMES.items()]


@dataclass(frozen=True)
class InPage:
    """A Runtime in a page."""

    name: str
    target: str
    device: Browser

    def unavailable(self) -> str | None:
        return web.unavailable()

    def launch(self, path: Path, threads: int) -> Launch:
        worker = ["-P", "-m", "dwindle.bench.devices.page_worker", self.name, str(path), str(threads)]
        return Launch([sys.executable, *worker, str(self.device.throttle)], None)
