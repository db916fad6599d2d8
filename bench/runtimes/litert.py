"""LiteRT with its XNNPACK delegate, on this machine's CPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from dwindle import litert
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Infer, Runtime


class LiteRT(Runtime):
    """LiteRT's interpreter. XNNPACK's sparse kernels are off on x86-64 machines that have AVX."""

    name = "litert"
    target = "litert"

    def check(self) -> Missing | None:
        if find_spec("ai_edge_litert"):
            return None
        return Missing("the package ai-edge-litert is not installed", 'pip install "dwindle[litert]"')

    def version(self) -> str:
        import ai_edge_litert
        from ai_edge_litert import interpreter  # noqa: F401

        return str(ai_edge_litert.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        return litert.loaded(str(path), threads)
