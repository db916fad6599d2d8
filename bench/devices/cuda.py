"""An NVIDIA GPU of this machine as a device: `--device cuda`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from dwindle.bench.devices.device import Device
from dwindle.bench.launch import Launch, python_module
from dwindle.bench.machine import this_machine
from dwindle.bench.missing import Missing
from dwindle.bench.result import Machine
from dwindle.bench.runtimes.runtime import Launcher
from dwindle.bench.runtimes.torch import TorchCompiled, module_of

SPARSE = "torch-2:4"
RUNTIMES = {"torch": "pytorch", "torch-compiled": "pytorch", SPARSE: "pytorch", "onnxruntime": "onnx"}
"""The target of each runtime there (see `cuda_worker`)."""
HALF = 2e-2
"""Largest difference of an output in fp16, over the largest: what export allows a target that computes so."""


class Cuda(Device):
    """The first NVIDIA GPU. Every worker has it to itself."""

    scheme = "cuda"
    usage = "cuda"
    summary = "this machine's NVIDIA GPU, by PyTorch and onnxruntime"
    targets = tuple(dict.fromkeys(RUNTIMES.values()))

    @classmethod
    def check(cls) -> Missing | None:
        try:
            import torch
        except (ImportError, OSError):  # the latter for a library that it wants and doesn't find
            return Missing("PyTorch cannot be imported")
        if torch.cuda.is_available():
            return None
        if torch.version.cuda is None:
            return Missing(f"there is no GPU to measure on: PyTorch {torch.__version__} is built without CUDA")
        built = f"PyTorch is built for CUDA {torch.version.cuda}"
        return Missing(f"there is no GPU to measure on: {built} and finds no NVIDIA GPU")

    @classmethod
    def found(cls) -> str:
        import torch

        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))

    @classmethod
    def incomplete(cls) -> Missing | None:
        lacking = [(runtime.name, missing) for runtime in every_runtime() if (missing := runtime.check())]
        if not lacking:
            return None
        commands = dict.fromkeys(missing.command for _, missing in lacking if missing.command)
        reasons = "; ".join(f"{name}: {missing.reason}" for name, missing in lacking)
        return Missing(reasons, " && ".join(commands) or None)

    def __enter__(self) -> Self:
        super().__enter__()
        import torch

        here, gpu = this_machine(), torch.cuda.get_device_name(0)
        self.machine = Machine(gpu, here.cores, f"CUDA {torch.version.cuda}, {here.cpu}, {here.system}")
        return self

    def runtimes(self) -> Sequence[OnCuda]:
        """The runtimes whose libraries are installed; no row stands for the others."""
        return [runtime for runtime in every_runtime() if not runtime.check()]


@dataclass(frozen=True)
class OnCuda(Launcher):
    """A runtime on the GPU."""

    name: str
    target: str
    tolerance: float | None = None

    def check(self) -> Missing | None:
        if self.name == "torch-compiled":
            return TorchCompiled().check()
        if self.target == "pytorch":
            return None
        command = "pip install onnxruntime-gpu"
        if not find_spec("onnxruntime"):
            return Missing("the package onnxruntime-gpu is not installed", command)
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return Missing(f"onnxruntime {onnxruntime.__version__} is built without CUDA", command)
        return None

    def applies_to(self, path: Path) -> bool:
        return self.name != SPARSE or bool(_sparse_layers(path))

    def launch(self, path: Path, threads: int) -> Launch:
        command = python_module("dwindle.bench.devices.cuda_worker", self.name, str(path), str(threads))
        if self.name != SPARSE:
            return Launch(command)
        count = len(_sparse_layers(path))
        return Launch(command, f"fp16, {count} {'layer' if count == 1 else 'layers'} by sparse tensor cores")


def every_runtime() -> list[OnCuda]:
    """All runtimes of a GPU, whether or not their libraries are here."""
    return [OnCuda(name, target, HALF if name == SPARSE else None) for name, target in RUNTIMES.items()]


def _sparse_layers(path: Path) -> list[str]:
    from dwindle.bench.devices.semi_structured import layers

    return layers(module_of(path))
