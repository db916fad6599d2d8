"""ExecuTorch through the XNNPACK delegate: in fp32; int8, weights in int8 whose layers round what they read when they
run; or w8a8, weights and activations in int8 over ranges that calibration found.

The format has no sparse weights: a zero takes as many bytes as any other weight, until the whole file is compressed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dwindle.export.executorch.errors import translated
from dwindle.export.executorch.int8 import Int8Weights, counted, int8_weights
from dwindle.export.executorch.program import lower, lowered
from dwindle.export.fold import deployable, trace
from dwindle.export.int8_target import Int8Target
from dwindle.export.target import Outputs, Target, one_by_one
from dwindle.export.w8a8 import quantize
from dwindle.export.w8a8_samples import noise_like, untrained
from dwindle.export.zeros import Effects, Speed, removed, stored_like_any
from dwindle.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.quantize import Stored
    from dwindle.export.target import Rounding
    from dwindle.manifest import Breakdown

_DENSE_KERNELS = Speed("CPU", False, "measured", "studies/demo/output.txt", "XNNPACK multiplies by zeros")


class ExecuTorch(Int8Target):
    """A .pte program, delegated to XNNPACK wherever that has the operator."""

    name = "executorch"
    suffix = ".pte"
    precisions = ("fp32", "int8", "w8a8")
    packages = ("torch", "executorch", "torchao")
    zstd = True
    dynamic = True
    effects = Effects(
        weights=stored_like_any(_DENSE_KERNELS),
        n_of_m=stored_like_any(_DENSE_KERNELS),
        channel=removed(
            Speed(
                "CPU",
                faster=True,
                basis="measured",
                source="studies/channels/speed.md",
                detail="1.96 to 1.99 times at half the multiply-accumulates with widths in multiples of 32",
            )
        ),
        units=("CPU",),
    )

    def __init__(
        self, precision: str | None = None, min_os: str | None = None, samples: tuple[Tensor, ...] | None = None
    ) -> None:
        """samples: real inputs, batched, for the ranges of w8a8's activations; None: what `write` is given."""
        super().__init__(precision, min_os, samples)
        self._last: list[Int8Weights] = []

    @property
    def arithmetic(self) -> str:
        return "int8" if self.rounds_activations else "fp32"

    @property
    def rounds_activations(self) -> bool:
        return self.precision != "fp32"

    def rounded_by(self, rounding: Rounding) -> Self:
        changed = super().rounded_by(rounding)
        changed._last = []
        return changed

    def holding(self, network: nn.Module, inputs: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Target:
        if self.precision != "int8":
            return super().holding(network, inputs, real)
        changed = copy.copy(self)
        changed.fp32 = self._with_int8(network, inputs).floats
        return changed

    def as_stored(self, network: nn.Module, *, activations: bool) -> nn.Module:
        """At int8 of the network that was last written."""
        if self.precision != "int8":
            return super().as_stored(network, activations=activations)
        (made,) = self._last
        made = self._with_int8(network, made.inputs)
        return made.reference if activations else made.weights_only

    def trained_through(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Mapping[str, Stored]:
        if self.precision != "int8":
            return super().trained_through(network, inputs)
        return int8_weights(network, inputs).weights

    def _with_int8(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Int8Weights:
        """The network at int8. The last result is cached."""
        if not (self._last and self._last[0].network is network):
            self._last[:] = [int8_weights(network, inputs, self.rounding)]
        return self._last[0]

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        if self.calibrates:
            content = _lowered(self.quantized(module, inputs).program, inputs, module)
        elif self.precision == "int8":
            content = _lowered(self._with_int8(module, inputs).program, inputs, module)
        else:
            program = lower(module, inputs)
            content = program.filled(module) if program.complete else _lowered(module, inputs)
        path.write_bytes(content)
        return f"dense {self.arithmetic}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        # The size follows from the shapes alone, except that lowering stores equal tensors once. Those of `distinct`
        # all differ, and so no trained network's file is larger. The ranges of int8 do not change it.
        network = deployable(module, inputs)
        if self.calibrates:
            size = len(
                _lowered(quantize(untrained(network), noise_like(inputs), self._counted).program, inputs, network)
            )
        elif self.precision == "int8":
            size = len(_lowered(counted(network, inputs).program, inputs, network))
        else:
            size = len(lower(network, inputs).content)
        return lambda candidate: size

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        import torch

        with quiet():  # the native code describes the processor on sys.stderr at the first call
            from executorch.extension.pybindings.portable_lib import _load_for_executorch, _unsafe_reset_threadpool

            _unsafe_reset_threadpool(1)

            def infer(sample: list[np.ndarray]) -> list[np.ndarray]:
                return [output.numpy() for output in program.forward([torch.from_numpy(array) for array in sample])]

            with translated("loading it"):
                program = _load_for_executorch(str(path))
            with translated("running it"):
                return one_by_one(infer, inputs, batch)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.executorch.read import weights

        return weights(path, module)

    def breakdown(self, path: Path) -> Breakdown:
        from dwindle.export.executorch.read import breakdown

        return breakdown(path)


def _lowered(network: nn.Module, inputs: tuple[Tensor, ...], sizes: nn.Module | None = None) -> bytes:
    """The file of a network. sizes: that whose sizes vary as in the file; None: the network itself."""
    return lowered(trace(network, inputs, sizes), type(network).__name__)
