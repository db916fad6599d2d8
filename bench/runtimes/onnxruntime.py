"""onnxruntime, on this machine's CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import onnx_session
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Infer, Runtime
from dwindle.bench.runtimes.steady import steady_mean

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession


class OnnxRuntime(Runtime):
    """Runs ONNX files on the CPU, unless a subclass's `providers` name another execution provider."""

    name = "onnxruntime"
    target = "onnx"
    profiles = True
    providers: tuple[object, ...] = ("CPUExecutionProvider",)

    def check(self) -> Missing | None:
        if find_spec("onnxruntime"):
            return None
        return Missing("the package onnxruntime is not installed", "pip install onnxruntime")

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        return onnx_session.infer(self.session(path, threads))

    def session(self, path: Path, threads: int, options: Mapping[str, object] | None = None) -> InferenceSession:
        """A session whose idle threads sleep: they would otherwise burn the CPU time that is being measured."""
        spinning = {"session.intra_op.allow_spinning": "0"}
        return onnx_session.session(
            str(path), threads=threads, providers=self.providers, options=options, config=spinning
        )

    def profile(
        self, path: Path, threads: int, sample: list[np.ndarray], iterations: int
    ) -> list[tuple[str, str, float, str]]:
        with tempfile.TemporaryDirectory() as folder:
            session = self.session(
                path, threads, {"enable_profiling": True, "profile_file_prefix": str(Path(folder) / "profile")}
            )
            infer = onnx_session.infer(session)
            for _ in range(1 + iterations):
                infer(sample)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        spent: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                spent.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1000)
        return [(name, kind, steady_mean(times), "onnxruntime") for (name, kind), times in spent.items()]
