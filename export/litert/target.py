"""LiteRT, once TensorFlow Lite: weights in fp32 or fp16, sparse ones as the format's own sparse tensors.

Its XNNPACK runs a network of such tensors by sparse kernels, that skip zeros, on ARM and in browsers, where more than
two thirds of the weights of its 1×1 convolutions and linear layers are zero (`xnn_subgraph_rewrite_for_nchw`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import RuntimeUnavailable
from dwindle.export.fold import fold, foldable
from dwindle.export.quantize import quantized, stored
from dwindle.export.quiet import silent
from dwindle.export.target import one_by_one
from dwindle.litert import loaded

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.litert.graph import Graph


class LiteRT:
    """A .tflite file, its inputs and outputs in the layout that the network has them in."""

    name = "litert"
    suffix = ".tflite"
    precisions = ("fp32", "fp16")
    arithmetic = "fp32"
    packs_zeros = True
    packages = ("torch", "litert-torch", "ai-edge-litert")

    def __init__(self, precision: str = precisions[0]) -> None:
        if not (find_spec("litert_torch") and find_spec("ai_edge_litert")):
            raise RuntimeUnavailable("what makes LiteRT files is not installed: pip install 'dwindle[litert]'")
        self.precision = precision

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        from dwindle.export.litert.graph import convert

        content, packed = self._filled(convert(module, inputs), module, inputs, pack=pack)
        path.write_bytes(content)
        return f"compressed sparse rows + {self.precision} survivors" if packed else f"dense {self.precision}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        from dwindle.export.litert.graph import convert

        pairs = foldable(module, inputs)
        graph = convert(fold(module, pairs), inputs)
        return lambda candidate: len(self._filled(graph, fold(candidate, pairs), inputs, pack=True)[0])

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        # Native code reports on stderr how it is going to compute.
        with silent():
            infer = loaded(str(path), threads=1)
        return one_by_one(lambda sample: infer(sample)[0], inputs)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.litert.graph import read

        return {name: array.astype("float32") for name, array in read(path.read_bytes(), module).items()}

    def _filled(
        self, graph: Graph, network: nn.Module, inputs: tuple[Tensor, ...], *, pack: bool
    ) -> tuple[bytes, bool]:
        """The file of a network of the graph's architecture, and whether any tensor in it is sparse."""
        from dwindle.export.litert.graph import convert_as_is

        held = stored(network, self.precision)
        if not graph.complete:  # what is computed from weights follows from their values
            graph = convert_as_is(quantized(network, held), inputs)
        return graph.filled(held, pack=pack)
