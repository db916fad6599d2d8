"""PyTorch as a runtime of its own files, eager and compiled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.runtime import Infer, Runtime

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from torch.fx import GraphModule

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable that says where torch.compile keeps its kernels."""


class Torch(Runtime):
    """The program as torch.export wrote it, one operator after the other."""

    name = "torch"
    target = "pytorch"

    def check(self) -> Missing | None:
        return None if find_spec("torch") else Missing("the package torch is not installed", "pip install torch")

    def version(self) -> str:
        import torch
        import torch.export.pt2_archive._package  # torch.export.load imports it late

        return str(torch.__version__)

    def load(self, path: Path, threads: int) -> Infer:
        import torch

        from dwindle.models.signature import outputs_of

        torch.set_num_threads(threads)
        module = self.prepared(module_of(path), path)

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                return [output.numpy() for output in outputs_of(module(*map(torch.from_numpy, arrays)))]

        return infer

    def prepared(self, module: GraphModule, path: Path) -> nn.Module:
        """A file's module as this runtime runs it."""
        return module


class TorchCompiled(Torch):
    """The program that Torch runs, by torch.compile, whose first call compiles it."""

    name = "torch-compiled"
    compiles = True

    def check(self) -> Missing | None:
        compiler = os.environ.get("CXX") or "g++"
        if not shutil.which(compiler):
            return Missing(
                f"torch.compile needs a C++ compiler, and {compiler} is not installed", "apt-get install g++"
            )
        return super().check()

    def version(self) -> str:
        import torch._inductor.compile_fx  # noqa: F401  torch.compile imports it at its first call

        return super().version()

    def prepared(self, module: GraphModule, path: Path) -> nn.Module:
        return compiled(module, path)


def module_of(path: Path) -> GraphModule:
    """A file's program, on the CPU, read by the target that wrote it: it refuses one with pickles in it."""
    module: GraphModule = registry.resolve("dwindle.targets", Torch.target, "target")().loaded(path)
    return module


def compiled(module: nn.Module, path: Path) -> nn.Module:
    """The module by torch.compile, its kernels kept apart from those of other files: two of one architecture would
    share them, and the second seem to compile at once."""
    import torch

    os.environ[CACHE] = str(_kernels() / path.stem)
    torch._dynamo.reset()  # of a file loaded once more there would be two variants of one function
    module.compile()
    return module


@cache
def _kernels() -> Path:
    """The folder in which this process began to keep torch.compile's kernels."""
    return Path(os.environ.get(CACHE) or tempfile.mkdtemp())


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Within this context, worker processes share what they compile and find nothing that was compiled before it."""
    before = os.environ.get(CACHE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if before is not None:
                os.environ[CACHE] = before
