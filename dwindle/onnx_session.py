"""onnxruntime set up in one way for all that run ONNX files: export, bench and the tests.

The emulated ARM64 machine reads this file alone: it imports nothing of dwindle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    # x86 without VNNI adds products of uint8 and int8 in 16 bits, which overflow, unless it is told not to.
    for name, text in {"session.x64quantprecision": "1", **(config or {})}.items():
        settings.add_session_config_entry(name, text)
    return onnxruntime.InferenceSession(model, settings, providers=list(providers))


def infer(session: InferenceSession) -> Infer:
    """A function from an array for each input of a session to an array for each output."""
    names = [value.name for value in session.get_inputs()]

    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    return run
