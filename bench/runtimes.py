"""The runtimes that come with dwindle. Each is imported in a worker's process only."""

from __future__ import annotations

import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import litert, registry
from dwindle.bench.result import PORTABLE

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

    from dwindle.bench.runtime import Infer

_FALLEN_BACK = "native_call_"
"""How ExecuTorch's traces name an operator that no delegate took."""


class OnnxRuntime:
    """onnxruntime, on the CPU unless `providers` name another place."""

    name = "onnxruntime"
    target = "onnx"
    providers: tuple[object, ...] = ("CPUExecutionProvider",)

    def unavailable(self) -> str | None:
        return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        return self._session(path, threads, {})[1]

    def profile(
        self, path: Path, threads: int, sample: list[np.ndarray], iterations: int
    ) -> list[tuple[str, str, float, str]]:
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "profile")
            session, infer = self._session(path, threads, {"enable_profiling": True, "profile_file_prefix": prefix})
            for _ in range(1 + iterations):
                infer(sample)
            events = json.loads(Path(session.end_profiling()).read_text())
        spent: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                spent.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1000)
        return [(name, kind, _steady(times), "onnxruntime") for (name, kind), times in spent.items()]

    def _session(self, path: Path, threads: int, extra: dict[str, object]) -> tuple[InferenceSession, Infer]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        for name, value in extra.items():
            setattr(options, name, value)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Idle threads would otherwise burn the CPU time that is being measured.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=list(self.providers))
        names = [node.name for node in session.get_inputs()]

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            return list(session.run(None, dict(zip(names, arrays, strict=True))))

        return session, infer


class ExecuTorch:
    """ExecuTorch of the installed wheel, with its XNNPACK delegate: a native program, or the Python bindings."""

    name = "executorch"
    target = "executorch"
    native = "native runner"
    bindings = "Python bindings"

    def unavailable(self) -> str | None:
        return None if find_spec("executorch") else "the package executorch is not installed"

    def command(self, path: Path, threads: int) -> list[str]:
        from dwindle.bench import build

        return [str(build.runner()), str(path.absolute()), str(threads)]

    def version(self) -> str:
        from importlib.metadata import version

        import torch  # noqa: F401  loads the libraries the bindings link to

        # Not `portable_lib`, the same bindings: for one warning's class it imports the whole compiler.
        from executorch.extension.pybindings import _C  # noqa: F401

        return version("executorch")

    def load(self, path: Path, threads: int) -> Infer:
        import torch
        from executorch.extension.pybindings import _C

        if _C._threadpool_get_thread_count() != threads:
            _C._unsafe_reset_threadpool(threads)  # unsafe once a delegate holds the pool: so once only
        module = _C._load_for_executorch(str(path))

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            inputs = tuple(torch.from_numpy(array) for array in arrays)
            return [output.numpy() for output in module.run_method("forward", inputs)]

        return infer

    def profile(
        self, path: Path, threads: int, sample: list[np.ndarray], iterations: int
    ) -> list[tuple[str, str, float, str]]:
        import torch
        from executorch.devtools import Inspector
        from executorch.extension.pybindings import _C

        module = _C._load_for_executorch(str(path), enable_etdump=True)
        inputs = tuple(torch.from_numpy(array) for array in sample)
        for _ in range(1 + iterations):
            module.run_method("forward", inputs)
        with tempfile.TemporaryDirectory() as folder:
            trace = str(Path(folder) / "trace.etdp")
            module.write_etdump_result_to_file(trace, "")
            events = Inspector(etdump_path=trace).to_dataframe()
        found = []
        for name, times, delegated in zip(events["event_name"], events["raw"], events["is_delegated_op"], strict=True):
            if delegated:
                found.append((name, name.partition(" (")[0], _steady(times), "XNNPACK"))
            elif name.startswith(_FALLEN_BACK):
                own = name.removeprefix(_FALLEN_BACK)
                found.append((own, own.partition(".")[0], _steady(times), PORTABLE))
        return found


def _steady(times: list[float]) -> float:
    """A mean, for clocks of whole microseconds, without the first, which pays for what is done once, and without
    the slowest twentieth, which others interrupted."""
    ordered = sorted(times[1:])
    kept = ordered[: max(1, len(ordered) - math.ceil(len(ordered) / 20))]
    return sum(kept) / len(kept)


class LiteRT:
    """LiteRT with its XNNPACK delegate, whose sparse kernels are off on x86-64 hosts with AVX."""

    name = "litert"
    target = "litert"

    def unavailable(self) -> str | None:
        if find_spec("ai_edge_litert"):
            return None
        return "the package ai-edge-litert is not installed: pip install 'dwindle[litert]'"

    def version(self) -> str:
        import ai_edge_litert
        from ai_edge_litert import interpreter  # noqa: F401

        return str(ai_edge_litert.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        return litert.loaded(str(path), threads)


@contextmanager
def _absent(*packages: str) -> Iterator[None]:
    """Has libraries that use these only if they are installed do without them."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:  # None is how an import is made to fail
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class CoreML:
    """Core ML through coremltools, which reaches Apple's framework on a Mac only; elsewhere, export's interpreter."""

    name = "coreml"
    target = "coreml"

    def unavailable(self) -> str | None:
        return None if find_spec("coremltools") else "the package coremltools is not installed"

    def stand_in(self) -> str | None:
        if platform.system() == "Darwin":
            return None
        return "dwindle's own interpreter of the file, which has not been run on Apple hardware"

    def version(self) -> str:
        if self.stand_in():
            import torch

            return f"torch {torch.__version__}"
        import coremltools

        return f"macOS {platform.mac_ver()[0]}, coremltools {coremltools.__version__}"

    def load(self, path: Path, threads: int) -> Infer:
        # `threads` is for the stand-in: Core ML schedules itself, here on the CPU so that runs compare.
        import torch

        if self.stand_in():  # reads the file's messages by it: what it converts from would take five seconds to import
            with _absent("executorch", "sklearn"):
                import coremltools  # noqa: F401
        torch.set_num_threads(threads)
        infer: Infer = registry.resolve("dwindle.targets", self.target, "target")().loaded(path)
        return infer


class ExecuTorchCoreML(CoreML):
    """ExecuTorch files whose work Core ML does: on a Mac by ExecuTorch's delegate; elsewhere, export's interpreter."""

    name = "executorch-coreml"
    target = "executorch-coreml"

    def unavailable(self) -> str | None:
        return ExecuTorch().unavailable()

    def version(self) -> str:
        return super().version() if self.stand_in() else ExecuTorch().version()

    def load(self, path: Path, threads: int) -> Infer:
        return super().load(path, threads) if self.stand_in() else ExecuTorch().load(path, threads)
