"""LiteRT, once TensorFlow Lite: fp32 or fp16, sparse weights as the format's own sparse tensors, or w8a8.

On ARM and in browsers, LiteRT's XNNPACK runs a network of such tensors by sparse kernels, which skip zeros, if more
than two thirds of the weights of its 1×1 convolutions and linear layers are zero (`xnn_subgraph_rewrite_for_nchw`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import RuntimeUnavailable
from dwindle.export.filled import Converter, FilledTarget, Graph
from dwindle.export.fold import deployable, short_names
from dwindle.export.int8_target import Int8Target
from dwindle.export.target import Outputs, one_by_one
from dwindle.export.w8a8 import Form, Quantized, quantize, require_packages
from dwindle.export.w8a8_samples import noise_like, streamed, untrained
from dwindle.export.zeros import Effect, Effects, Speed
from dwindle.litert import loaded
from dwindle.models.signature import input_names
from dwindle.quiet import silent

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.quantize import Stored
    from dwindle.manifest import Breakdown

_STORAGE = "compressed sparse rows, where they take fewer bytes than dense ones"

_SMALLER_TO = {"fp32": 2 / 3, "fp16": 0.5}
"""A survivor takes its index too, of two bytes at most in rows shorter than 65,536."""


class LiteRT(Int8Target, FilledTarget):
    """A .tflite file, whose inputs and outputs keep the network's own layout of dimensions."""

    name = "litert"
    suffix = ".tflite"
    precisions = ("fp32", "fp16", "w8a8")
    packages = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")
    lacks = ("complex64",)
    fastest = "unstructured"
    holds_metadata = True
    _form = Form(whole=True)
    effects = Effects(
        weights=Effect(
            True,
            _STORAGE,
            (
                Speed(
                    "CPU",
                    faster=True,
                    basis="measured",
                    source="studies/packing/litert.md",
                    detail="on ARM64, 1×1 convolutions run by sparse kernels where more than two thirds of their "
                    "weights are zero: with 90% zeros, a MobileNetV2 executes .39 of the dense file's instructions, "
                    "and a ResNet-18, which has few 1×1 convolutions, as many as the dense file",
                    most=1 / 3,
                    precisions=("fp32", "fp16"),
                ),
                Speed(
                    "CPU",
                    faster=False,
                    basis="measured",
                    source="studies/packing/litert.md",
                    detail="layers are computed densely where at most two thirds of their weights are zero",
                    precisions=("fp32", "fp16"),
                ),
            ),
            _SMALLER_TO,
        ),
        n_of_m=Effect(
            True,
            _STORAGE,
            (Speed("CPU", None, "unknown", detail="2:4 has fewer zeros than the sparse kernels need"),),
            _SMALLER_TO,
        ),
    )

    def __init__(
        self, precision: str | None = None, min_os: str | None = None, samples: tuple[Tensor, ...] | None = None
    ) -> None:
        """samples: real inputs, batched, for the ranges of w8a8's activations; None: what `write` is given."""
        if not (find_spec("litert_torch") and find_spec("ai_edge_litert")):
            raise RuntimeUnavailable(
                "the packages that write LiteRT files are not installed: pip install 'dwindle[litert]'",
                code="not-installed",
                name="litert",
            )
        super().__init__(precision, min_os, samples)
        self._last: list[tuple[Quantized, bytes]] = []
        if self.calibrates:
            require_packages()

    @property
    def fills_with(self) -> str:
        return "fp32" if self.calibrates else self.precision

    @property
    def converter(self) -> Converter:
        from dwindle.export.litert import graph

        return graph

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        from dwindle.export.litert.file import described

        if self.calibrates:
            content = self._int8(module, inputs, self.samples or inputs, self.quantized(module, inputs))
            path.write_bytes(described(content, self.metadata))
            return "dense int8"
        content, packed = self.filled(module, inputs, pack=pack)
        path.write_bytes(content)
        return f"compressed sparse rows + {self.precision} survivors" if packed else f"dense {self.precision}"

    def _without(self, network: nn.Module, inputs: tuple[Tensor, ...], quantized: Quantized) -> tuple[str, ...]:
        from dwindle.export.litert import w8a8

        content, short = self._int8(network, inputs, self.samples or inputs, quantized), short_names(network)
        return w8a8.in_float(content, [own for name, own in short.items() if name.rpartition(".")[0] in quantized.kept])

    def _int8(
        self, module: nn.Module, inputs: tuple[Tensor, ...], samples: tuple[Tensor, ...], quantized: Quantized
    ) -> bytes:
        """The file, without metadata. The last one is kept: `holding` looks into what is then written."""
        from dwindle.export.litert import w8a8

        if self._last and self._last[0][0] is quantized:
            return self._last[0][1]
        # On their grid already, so that the quantizer finds the same codes again.
        content, _ = self.filled(quantized.weights_only, inputs, pack=False)
        short = short_names(module)
        scales = {short[layer.weight]: layer.scale for layer in quantized.layers}
        names = input_names(module, len(inputs))
        made = w8a8.quantized(content, names, streamed(module, samples), scales, type(module).__name__)
        self._last[:] = [(quantized, made)]
        return made

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        if not self.calibrates:
            return super().packer(module, inputs)
        from dwindle.export.litert.file import described

        # Every int8 weight takes a byte, and neither ranges nor values change what a file takes.
        network, noise = untrained(deployable(module, inputs)), noise_like(inputs)
        content = self._int8(network, inputs, noise, quantize(network, noise, self._counted))
        size = len(described(content, self.metadata))
        return lambda candidate: size

    def _filled(
        self,
        graph: Graph,
        network: nn.Module,
        weights: dict[str, Stored],
        inputs: tuple[Tensor, ...],
        *,
        pack: bool,
    ) -> tuple[bytes, Any]:
        from dwindle.export.litert.file import described

        content, packed = super()._filled(graph, network, weights, inputs, pack=pack)
        return (content if self.calibrates else described(content, self.metadata)), packed

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        with silent():  # the native code says on stderr how it is going to compute
            infer = loaded(str(path), threads=1)
        return one_by_one(infer, inputs, batch)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.litert.graph import read

        return {name: array.astype("float32") for name, array in read(path.read_bytes(), module).items()}

    def breakdown(self, path: Path) -> Breakdown:
        from dwindle.export.litert.file import breakdown

        return breakdown(path.read_bytes())
