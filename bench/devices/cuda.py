"""An NVIDIA GPU of this machine as a device: `--device cuda`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dwindle.bench.machine import this_machine
from dwindle.bench.result import Machine
from dwindle.bench.runtime import Launch
from dwindle.bench.torch_runtimes import TorchCompiled, module_of
from dwindle.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from dwindle.bench.measure import Reading

CUDA = "cuda"
SPARSE = "torch-2:4"
RUNTIMES = {"torch": "pytorch", "torch-compiled": "pytorch", SPARSE: "pytorch", "onnxruntime": "onnx"}
"""What runs files there, and whose (see `cuda_worker`)."""
HALF = 2e-2
"""Largest difference of an output in fp16, over the largest: what export allows a target that computes so."""


def unavailable() -> str | None:
    """Why no GPU can be measured on here; None where one can."""
    try:
        import torch
    except (ImportError, OSError):  # the latter for a library that it wants and doesn't find
        return "PyTorch cannot be imported"
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return f"PyTorch is built for CUDA {torch.version.cuda} and finds no NVIDIA GPU"


class Cuda:
    """The first GPU. A context manager, since every device is one."""

    url = CUDA

    def __enter__(self) -> Self:
        if reason := unavailable():
            raise RuntimeUnavailable(f"there is no GPU to measure on: {reason}")
        import torch

        here, gpu = this_machine(), torch.cuda.get_device_name(0)
        self.machine = Machine(gpu, here.cores, f"CUDA {torch.version.cuda}, {here.cpu}, {here.system}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # every worker has the GPU to itself

    @property
    def targets(self) -> Sequence[str]:
        return list(dict.fromkeys(runtime.target for runtime in self.runtimes()))

    def busy(self) -> Reading:
        from dwindle.bench.measure import here

        return here()

    def runtimes(self) -> Sequence[OnCuda]:
        """Those whose libraries are here: of a GPU nobody expects that it runs everything."""
        return [one for one in every(self) if not one.unavailable()]


@dataclass(frozen=True)
class OnCuda:
    """A Runtime on the GPU."""

    name: str
    target: str
    device: Cuda

    @property
    def tolerance(self) -> float | None:
        return HALF if self.name == SPARSE else None

    def unavailable(self) -> str | None:
        if self.name == "torch-compiled":
            return TorchCompiled().unavailable()
        if self.target == "pytorch":
            return None
        if not find_spec("onnxruntime"):
            return "the package onnxruntime-gpu is not installed"
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return f"onnxruntime {onnxruntime.__version__} is built without CUDA: pip install onnxruntime-gpu"
        return None

    def concerns(self, path: Path) -> bool:
        return self.name != SPARSE or bool(_sparse_layers(path))

    def launch(self, path: Path, threads: int) -> Launch:
        worker = ["-P", "-m", "dwindle.bench.devices.cuda_worker", self.name, str(path), str(threads)]
        through = None
        if self.name == SPARSE:
            count = len(_sparse_layers(path))
            through = f"fp16, {count} {'layer' if count == 1 else 'layers'} by sparse tensor cores"
        return Launch([sys.executable, *worker], through)


def every(device: Cuda) -> list[OnCuda]:
    """All that could run on it, whether or not it is here."""
    return [OnCuda(name, target, device) for name, target in RUNTIMES.items()]


def _sparse_layers(path: Path) -> list[str]:
    from dwindle.bench.devices.semi_structured import layers

    return layers(module_of(path))
