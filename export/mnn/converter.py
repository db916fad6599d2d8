"""MNN's converter, from ONNX, in a process of its own that cannot reach the network: `python -m … ONNX MNN`.

MNN's `MNN.tools` package is never imported: when it is, it runs `pip install` for a logging library and reports each
conversion to its maker. The compiled module that it wraps, `_tools`, is called instead. On Linux the process has no
network at all, where the system lets it give up its own; everywhere, Python code in it that connects to anything or
starts a program is stopped.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dwindle.errors import UsageError

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""unshare(2)'s CLONE_NEWUSER and CLONE_NEWNET."""
_REFUSED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
"""Audit events (docs.python.org/3/library/audit_events.html) of what the converter has no business doing."""


def convert(onnx: bytes, name: str) -> bytes:
    """The .mnn file that MNN's converter makes of an ONNX file.

    name: the network's, for the message. Raises UsageError where the converter refuses it or crashes.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "net.onnx"), Path(folder, "net.mnn")
        source.write_bytes(onnx)
        # In its own folder: the converter leaves files in the working directory.
        command = [sys.executable, "-P", "-m", __name__, str(source), str(result)]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        if done.returncode == 0 and result.exists():
            return result.read_bytes()
    said = [line.strip() for line in (done.stdout + done.stderr).decode(errors="replace").splitlines() if line.strip()]
    cause = said[-1] if said else f"its converter ended with exit code {done.returncode}"
    raise UsageError(f"{name} cannot be written as MNN: {cause}", code="not-convertible", name=name)


def isolate() -> None:
    """Takes the network from this process, and lets its Python code start no program."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a hardened system may refuse: the hook below remains
            ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if event in _REFUSED:
            raise PermissionError(f"the converter may not do this: {event}")

    sys.addaudithook(refuse)


def main() -> None:
    """Converts the file that the command line names."""
    source, result = sys.argv[1:]
    isolate()
    import _tools

    # Grouped convolutions stay one layer, whose weights are then one tensor as in the network.
    options = ["--groupConvNative", "--bizCode", ""]
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", result, *options])


if __name__ == "__main__":
    main()
