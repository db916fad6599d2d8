"""ExecuTorch with its XNNPACK delegate, on this machine's CPU."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.missing import Missing
from dwindle.bench.result import PORTABLE
from dwindle.bench.runtimes.runtime import Infer, Runtime
from dwindle.bench.runtimes.steady import steady_mean

if TYPE_CHECKING:
    import numpy as np

_NOT_DELEGATED = "native_call_"
"""How the names of operators that no delegate took begin in ExecuTorch's traces."""


class ExecuTorch(Runtime):
    """The installed wheel's ExecuTorch: a native program where it can be compiled, the Python bindings otherwise."""

    name = "executorch"
    target = "executorch"
    native = "native runner"
    profiles = True

    def check(self) -> Missing | None:
        if find_spec("executorch"):
            return None
        return Missing("the package executorch is not installed", "pip install executorch")

    def native_command(self, path: Path, threads: int) -> list[str]:
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
                found.append((name, name.partition(" (")[0], steady_mean(times), "XNNPACK"))
            elif name.startswith(_NOT_DELEGATED):
                own = name.removeprefix(_NOT_DELEGATED)
                found.append((own, own.partition(".")[0], steady_mean(times), PORTABLE))
        return found
