"""One exported file on a phone of Qualcomm AI Hub's, behind the messages of bench/wire.py.

    python aihub.py WIRE.PY FILE DEVICE

Runs in the environment of AI Hub's client, where dwindle isn't installed. `load` is a job, the first time: the service
loads the file, infers a hundred times on inputs that it makes up, and `time` deals those times out in their order, anew
when there are no more. It has not been run on Qualcomm hardware.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np


def job_options(file: Path, device: Any) -> dict[str, Any]:
    """The arguments of `submit_inference_job` for a file on a device."""
    return {"model": str(file), "device": device, "inputs": None, "name": f"dwindle {file.name}", "profile": True}


def profiled(file: Path, device: str) -> dict[str, Any]:
    """The job's summary, in microseconds and bytes."""
    import qai_hub

    job = qai_hub.submit_inference_job(**job_options(file, qai_hub.Device(device)))
    status = job.wait()
    if not status.success:
        raise RuntimeError(f"AI Hub's job {job.job_id} failed: {status.message}")
    summary: dict[str, Any] = job.download_profile()["execution_summary"]
    return summary


def times_ns(summary: dict[str, Any]) -> np.ndarray:
    """The nanoseconds of every inference; of one, where an older summary has no more."""
    microseconds = summary.get("all_inference_times") or [summary["estimated_inference_time"]]
    return np.array(microseconds, np.int64) * 1000


def loaded(summary: dict[str, Any], times: np.ndarray) -> dict[str, Any]:
    return {
        "load_ms": summary["first_load_time"] / 1000,
        "first_ms": int(times[0]) / 1e6,
        "version": f"as AI Hub has it, by qai-hub {version('qai-hub')}",
        "memory_bytes": None,
        "accelerator": "unit that AI Hub chose",
    }


def main() -> None:
    wire_path, file, device = sys.argv[1:]
    wire = run_path(wire_path)
    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what the client prints must not land among the answers
    summary: dict[str, Any] | None = None
    dealt: Iterator[int] = iter(())
    while True:
        try:
            header, _ = wire["receive"](requests)
        except EOFError:
            return
        arrays: list[np.ndarray] = []
        try:
            match header["request"]:
                case "load":
                    if summary is None:
                        summary = profiled(Path(file), device)
                        dealt = itertools.cycle(times_ns(summary).tolist())
                    answer = loaded(summary, times_ns(summary))
                case "time":
                    answer = {"switches": 0}
                    arrays = [np.array(list(itertools.islice(dealt, header["iterations"])), np.int64)]
                case other:
                    raise ValueError(f"AI Hub cannot serve the request {other}")
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        wire["send"](answers, answer, arrays)


if __name__ == "__main__":
    main()
