from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dwindle.onnx_session import infer, session


@pytest.fixture(scope="module")
def model() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "negated", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu avx2 avx512f", True),
        ("AMD64", None, True),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("x86_64", "fpu avx512_vnni", False),
        ("aarch64", "fp asimd", False),
    ],
)
def test_sums_of_int8_are_made_exact_where_the_cpu_would_let_them_overflow(
    machine: str, flags: str | None, exact: bool, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, **_: Any) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    made: list[onnxruntime.SessionOptions] = []
    own = onnxruntime.InferenceSession

    def creating(content: bytes, settings: onnxruntime.SessionOptions, **more: Any) -> onnxruntime.InferenceSession:
        made.append(settings)
        return own(content, settings, **more)

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(onnxruntime, "InferenceSession", creating)
    answered = infer(session(model))([np.array([1, -2], np.float32)])
    assert answered[0].tolist() == [-1, 2]
    assert _is_exact(made[0]) == exact


def _is_exact(settings: onnxruntime.SessionOptions) -> bool:
    try:
        return bool(settings.get_session_config_entry("session.x64quantprecision") == "1")
    except RuntimeError:  # it was not set
        return False
