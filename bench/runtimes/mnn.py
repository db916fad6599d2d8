"""MNN's interpreter, on this machine's CPU."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from dwindle import mnn
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Infer, Runtime


class MNN(Runtime):
    """MNN's interpreter. It computes sparse layers by sparse kernels on ARM64, and on x86-64 with AVX2 or AVX-512."""

    name = "mnn"
    target = "mnn"

    def check(self) -> Missing | None:
        if find_spec("MNN"):
            return None
        return Missing("the package MNN is not installed", 'pip install "dwindle[mnn]"')

    def version(self) -> str:
        import MNN  # noqa: F401  a `load` that is timed after this is the loading of the file alone

        return version("MNN")

    def load(self, path: Path, threads: int) -> Infer:
        return mnn.loaded(str(path), threads)
