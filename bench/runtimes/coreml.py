"""Core ML files: by Apple's framework on a Mac, and elsewhere by export's interpreter, whose times mean nothing."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from dwindle import registry
from dwindle.bench.missing import Missing
from dwindle.bench.runtimes.executorch import ExecuTorch
from dwindle.bench.runtimes.runtime import Infer, Runtime
from dwindle.imports import hidden


class CoreML(Runtime):
    """Core ML through coremltools, which reaches Apple's framework on a Mac only; elsewhere, export's interpreter."""

    name = "coreml"
    target = "coreml"

    def check(self) -> Missing | None:
        if find_spec("coremltools"):
            return None
        return Missing("the package coremltools is not installed", "pip install coremltools")

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
        """Loads a file. `threads` is for the interpreter: Core ML schedules itself, on the CPU so that runs compare."""
        import torch

        if self.stand_in():  # reads the file's messages by it: what it converts from would take five seconds to import
            with hidden("executorch", "sklearn"):
                import coremltools  # noqa: F401
        torch.set_num_threads(threads)
        infer: Infer = registry.resolve("dwindle.targets", self.target, "target")().loaded(path)
        return infer


class ExecuTorchCoreML(CoreML):
    """ExecuTorch files whose work Core ML does: on a Mac by ExecuTorch's delegate; elsewhere, export's interpreter."""

    name = "executorch-coreml"
    target = "executorch-coreml"

    def check(self) -> Missing | None:
        return ExecuTorch().check()

    def version(self) -> str:
        return super().version() if self.stand_in() else ExecuTorch().version()

    def load(self, path: Path, threads: int) -> Infer:
        return super().load(path, threads) if self.stand_in() else ExecuTorch().load(path, threads)
