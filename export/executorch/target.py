"""ExecuTorch through the XNNPACK delegate, in fp32, or weights and activations in int8.

The format has no sparse weights, so zeros cost what others do, until the file is compressed as a whole.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.export.executorch.int8 import Quantized, check_samples, quantize
from dwindle.export.executorch.program import lower, lowered
from dwindle.export.fold import deployable, distinct, trace
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


class ExecuTorch:
    """A .pte program, delegated to XNNPACK wherever that has the operator."""

    name = "executorch"
    suffix = ".pte"
    precisions = ("fp32", "int8")
    packs_zeros = False
    packages = ("torch", "executorch", "torchao")
    zstd = True
    """Whether an export has the file compressed beside it, for want of zeros packed in it."""

    def __init__(self, precision: str = precisions[0], samples: tuple[Tensor, ...] | None = None) -> None:
        """samples: real inputs, batched, for the ranges of int8 activations; None: what `write` is given."""
        self.precision = precision
        self.samples = samples
        self._last: tuple[nn.Module, Quantized] | None = None

    @property
    def arithmetic(self) -> str:
        return self.precision

    @property
    def calibrates(self) -> bool:
        return self.precision == "int8"

    def calibrated(self, samples: tuple[Tensor, ...]) -> ExecuTorch:
        check_samples(samples)
        return ExecuTorch(self.precision, samples)

    def held(self, network: nn.Module, *, activations: bool) -> nn.Module:
        assert self.samples is not None
        quantized = self._quantized(network, self.samples)
        return quantized.program if activations else quantized.weights_only

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        if self.calibrates:
            content = _lowered(self._quantized(module, self.samples or inputs).program, inputs)
        else:
            program = lower(module, inputs)
            content = program.filled(module) if program.complete else _lowered(module, inputs)
        path.write_bytes(content)
        return f"dense {self.precision}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        import torch

        # The size follows from the shapes alone, except that lowering stores equal tensors once: those differ, and
        # no trained network's file is larger. Which ranges int8 takes is none of its affair.
        network = deployable(module, inputs)
        if self.calibrates:
            generator = torch.Generator().manual_seed(0)
            noise = tuple(torch.rand(one.shape, generator=generator) for one in inputs)
            size = len(_lowered(quantize(distinct(network), noise).program, inputs))
        else:
            size = len(lower(network, inputs).content)
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
        from dwindle.export.executorch.read import weights

        return weights(path, module)

    def _quantized(self, network: nn.Module, samples: tuple[Tensor, ...]) -> Quantized:
        """Kept for the network seen last: calibrating takes as long as running all samples."""
        if self._last is None or self._last[0] is not network:
            self._last = network, quantize(network, samples)
        return self._last[1]


def _lowered(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    return lowered(trace(network, inputs), type(network).__name__)
