"""The runtimes that come with dwindle. Each is imported in a worker's process only."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from dwindle.bench.runtime import Infer


class OnnxRuntime:
    """onnxruntime on the CPU."""

    name = "onnxruntime"
    target = "onnx"

    def unavailable(self) -> str | None:
        return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Idle threads would otherwise burn the CPU time that is being measured.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            return list(session.run(None, dict(zip(names, arrays, strict=True))))

        return infer


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


class CoreML:
    """Core ML through coremltools, which reaches Apple's framework on a Mac only."""

    name = "coreml"
    target = "coreml"

    def unavailable(self) -> str | None:
        if platform.system() != "Darwin":
            return "Core ML runs on Apple's systems only, and this is not a Mac"
        return None if find_spec("coremltools") else "the package coremltools is not installed"

    def version(self) -> str:
        import coremltools

        return f"macOS {platform.mac_ver()[0]}, coremltools {coremltools.__version__}"

    def load(self, path: Path, threads: int) -> Infer:
        # `threads` has no counterpart: Core ML schedules itself, here on the CPU so that runs compare.
        import coremltools as ct
        import numpy as np

        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
        description = model.get_spec().description
        inputs = [feature.name for feature in description.input]
        outputs = [feature.name for feature in description.output]

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            answer = model.predict(dict(zip(inputs, arrays, strict=True)))
            return [np.asarray(answer[name]) for name in outputs]

        return infer
