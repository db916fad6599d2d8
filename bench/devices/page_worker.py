"""The worker process of a file in a browser.

    python -m dwindle.bench.devices.page_worker RUNTIME FILE THREADS THROTTLE

Serves what `worker` serves, except `profile`, by one page (inference.html) in a headless Chromium of its own. A
page has no clock of its thread's CPU time, so that `time` answers with wall time alone, and with `waited_ns`: for
how long that thread had no CPU though it wanted one (null off Linux). It is throttled by THROTTLE while it loads
and is timed, and not while it infers.
"""

from __future__ import annotations

import base64
import sys
import threading
from contextlib import ExitStack
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from dwindle.bench.devices import web
from dwindle.bench.worker import Answer, peak_bytes, reset_peak, serve

_TYPES = {".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}
_PHONE = "Pixel 7"
"""The phone whose screen and identity the page sees. The speed is this machine's."""
_SPIN_MS = 100
# Nothing but the page, on loopback, can be requested.
_ALONE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-quic", "--disable-sync")


class Page:
    """The page, with the file."""

    def __init__(self, runtime: str, file: Path, threads: int, throttle: float, stack: ExitStack) -> None:
        from playwright.sync_api import sync_playwright

        self.throttle = throttle
        server = stack.enter_context(_Server(file))
        driver = stack.enter_context(sync_playwright())
        browser = driver.chromium.launch(executable_path=web.chromium(), args=list(_ALONE))
        stack.callback(browser.close)
        self._page = browser.new_context(**driver.devices[_PHONE]).new_page()
        self._page.set_default_timeout(0)  # whoever asks has patience of their own
        self._page.goto(f"http://127.0.0.1:{server.server_port}/")
        self._page.wait_for_function("window.ready")
        self._browser_tools = browser.new_browser_cdp_session()
        self._page_tools = self._page.context.new_cdp_session(self._page)
        started = self._call("start", runtime, threads)
        if not started["isolated"]:
            raise RuntimeError("the page is not isolated from others, without which it has neither clock nor threads")
        self._version = str(started["version"])

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        self._page_tools.send(
            "Emulation.setCPUThrottlingRate", {"rate": 1 if header["request"] == "infer" else self.throttle}
        )
        match header["request"]:
            case "load":
                return self._load(arrays)
            case "time":
                return self._time(header["iterations"])
            case "infer":
                return {}, [_unpacked(found) for found in self._call("infer", list(map(_packed, arrays)))]
        raise ValueError(f"no such request: {header['request']}")

    @cached_property
    def _process(self) -> str:
        """The id of the page's process, which Chromium doesn't tell: it is the one that spins when the page does."""
        found = self._browser_tools.send("SystemInfo.getProcessInfo")["processInfo"]
        renderers = [str(process["id"]) for process in found if process["type"] == "renderer"]
        candidates = [name for name in renderers if not _shows_chromium_itself(name)]
        before = {name: _on_cpu(name) for name in candidates}
        self._call("spin", _SPIN_MS)
        return max(candidates, key=lambda name: _on_cpu(name) - before[name])

    def _load(self, sample: list[np.ndarray]) -> Answer:
        reset_peak(self._process)
        before = peak_bytes(self._process)
        times = self._call("load", list(map(_packed, sample)), self.throttle)
        after = peak_bytes(self._process)
        memory = None if before is None or after is None else after - before
        return {**times, "version": self._version, "memory_bytes": memory, "throttle": self.throttle}, []

    def _time(self, iterations: int) -> Answer:
        before = _scheduled(self._process)
        wall = np.array(self._call("time", iterations))
        after = _scheduled(self._process)
        waited = None if before is None or after is None else after[1] - before[1]
        return {"switches": 0, "waited_ns": waited}, [np.rint(wall * 1e6).astype(np.int64)]

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._page.evaluate(f"given => window.{name}(...given)", arguments)


class _Server(ThreadingHTTPServer):
    """Serves the page, its packages and the file, with the headers that isolate it: else its clock has 100 µs steps."""

    daemon_threads = True

    def __init__(self, file: Path) -> None:
        places = {"/": Path(__file__).with_name("inference.html"), "/file": file}
        for package in web.PACKAGES:
            for name in package.files:
                places[f"/packages/{package.name}/{name}"] = web.root() / package.name / name

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = places.get(self.path)
                content = path.read_bytes() if path else b""
                self.send_response(200 if path else 404)
                self.send_header("Content-Type", _TYPES.get(path.suffix if path else "", "application/octet-stream"))
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  http.server's name
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        super().__exit__(*error)


def _packed(array: np.ndarray) -> dict[str, Any]:
    return {"type": array.dtype.name, "shape": array.shape, "base64": base64.b64encode(array.tobytes()).decode()}


def _unpacked(found: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(found["base64"]), np.dtype(found["type"])).reshape(found["shape"])


def _scheduled(process: str) -> tuple[int, int] | None:
    """The nanoseconds that a process's main thread ran and waited to run (Documentation/scheduler/sched-stats.rst)."""
    try:
        ran, waited, _ = Path(f"/proc/{process}/schedstat").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return int(ran), int(waited)


def _shows_chromium_itself(process: str) -> bool:
    """Whether a process runs a part of the browser's own interface, as busy at its start as a spinning page."""
    try:
        return b"--top-chrome-webui" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _on_cpu(process: str) -> int:
    found = _scheduled(process)
    return found[0] if found else 0


def main() -> None:
    runtime, file, threads, throttle = sys.argv[1:]
    with ExitStack() as stack:
        serve(lambda: Page(runtime, Path(file), int(threads), float(throttle), stack).answer)


if __name__ == "__main__":
    main()
