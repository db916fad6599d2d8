"""ExecuTorch: fp32 through the XNNPACK delegate. The format has no sparse weights, so zeros cost what others do."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.fold import deployable, reason, tensors, trace
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class ExecuTorch:
    """A .pte program, delegated to XNNPACK wherever that has the operator."""

    name = "executorch"
    suffix = ".pte"
    precisions = ("fp32",)
    arithmetic = "fp32"
    packs_zeros = False
    packages = ("torch", "executorch")

    def __init__(self, precision: str = precisions[0]) -> None:
        self.precision = precision

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        path.write_bytes(_lowered(module, inputs))
        return "dense fp32"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        import torch

        # The size follows from the shapes alone, except that equal tensors are stored once: make them differ,
        # and no trained network's file is larger.
        network = deployable(module, inputs)
        generator = torch.Generator().manual_seed(0)
        for tensor in tensors(network).values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1, generator=generator)
        size = len(_lowered(network, inputs))
        return lambda candidate: size

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        import torch

        # Native code reports through sys.stderr on the processor, at the first call: loading is lazy.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool

            _unsafe_reset_threadpool(1)
            program = _load_for_executorch(str(path))
            return one_by_one(
                lambda sample: program.forward([torch.from_numpy(array) for array in sample])[0].numpy(), inputs
            )

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        return {}


def _lowered(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    program = trace(network, inputs)
    try:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:
        name = type(network).__name__
        raise UsageError(f"{name} cannot be written as ExecuTorch: {reason(error)}") from error
