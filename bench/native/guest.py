"""Files of .onnx, .tflite or .mnn behind the messages of bench/wire.py, in a Python that has only the runtime.

    python guest.py WIRE.PY OPENER.PY FILE

OPENER.PY is the file of dwindle that sets up the runtime. Runs under the emulator, where dwindle isn't installed;
serves `load`, `time` and `infer` as bench/worker.py does, without the clocks. A request that has a `path` is about that
file instead of FILE; what is loaded stays.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np

Infer = Callable[[list[np.ndarray]], list[np.ndarray]]


def onnxruntime(path: str) -> tuple[str, Infer]:
    import onnxruntime

    session = run_path(sys.argv[2])["session"](path)
    names = [node.name for node in session.get_inputs()]
    # Not that file's `infer`: each call more would be counted, and older counts are what growth is measured from.
    return onnxruntime.__version__, lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def litert(path: str) -> tuple[str, Infer]:
    import ai_edge_litert

    return ai_edge_litert.__version__, run_path(sys.argv[2])["loaded"](path, 1)


def mnn(path: str) -> tuple[str, Infer]:
    # Its native code says on standard output how it is going to compute. That must not land among the answers.
    kept = os.dup(1)
    os.dup2(2, 1)
    infer = run_path(sys.argv[2])["loaded"](path, 1)
    ctypes.CDLL(None).fflush(None)
    os.dup2(kept, 1)
    return metadata.version("MNN"), infer


RUNTIMES = {".onnx": onnxruntime, ".tflite": litert, ".mnn": mnn}


def main() -> None:
    wire_path, _, own = sys.argv[1:]
    loaded: dict[str, tuple[Infer, list[np.ndarray]]] = {}
    wire = run_path(wire_path)
    gc.disable()  # a collection is a million instructions, and not the file's
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not land among the answers
    answer: tuple[dict[str, Any], list[np.ndarray]]
    while True:
        try:
            header, arrays = wire["receive"](requests)
        except EOFError:
            return
        path = header.get("path", own)
        try:
            if header["request"] != "load":
                infer, sample = loaded[path]
            match header["request"]:
                case "load":
                    version, infer = RUNTIMES[Path(path).suffix](path)
                    loaded[path] = infer, arrays
                    infer(arrays)
                    answer = {"version": version}, []
                case "time":
                    for _ in range(header["iterations"]):
                        infer(sample)
                    answer = {}, []
                case "infer":
                    answer = {}, infer(arrays)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}, []
        wire["send"](answers, *answer)


if __name__ == "__main__":
    main()
