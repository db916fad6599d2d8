"""onnxruntime set up in one way for all that run ONNX files: export, bench and the tests.

The emulated ARM64 machine reads this file alone: it imports nothing of dwindle.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

Infer = Callable[[list["np.ndarray"]], list["np.ndarray"]]


def session(
    model: str | bytes,
    *,
    threads: int = 1,
    providers: Sequence[object] = ("CPUExecutionProvider",),
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, str] | None = None,
) -> InferenceSession:
    """A session that reports nothing but errors.

    model: the path of a file, or its content. threads: for one operator; operators run one after the other. options:
    further attributes of `onnxruntime.SessionOptions`, such as `enable_profiling`. config: further session
    configuration entries, such as `session.intra_op.allow_spinning`.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    for name, value in (options or {}).items():
        setattr(settings, name, value)
    exact = {"session.x64quantprecision": "1"} if _overflows() else {}
    for name, text in {**exact, **(config or {})}.items():
        settings.add_session_config_entry(name, text)
    return onnxruntime.InferenceSession(model, settings, providers=list(providers))


def _overflows() -> bool:
    """Whether onnxruntime adds products of uint8 and int8 in 16 bits here, which overflow, unless it is told not to:
    on x86 without VNNI. Told where there is VNNI, it computes the same at half the speed."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return True
    return not ("avx512_vnni" in flags or "avx_vnni" in flags)


def infer(session: InferenceSession) -> Infer:
    """A function from an array for each input of a session to an array for each output."""
    names = [value.name for value in session.get_inputs()]

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    return run
