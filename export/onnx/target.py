"""ONNX: weights packed, sparsity and precision together, in a graph that unpacks them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.export.fold import fold, foldable, short_names
from dwindle.export.quantize import stored
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor, nn


class Onnx:
    """Files for onnxruntime, or anything that reads stock ONNX: no custom operator, no external data."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8", "int4", "palette4")
    arithmetic = "fp32"
    packs_zeros = True
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")

    def __init__(self, precision: str = precisions[0]) -> None:
        self.precision = precision

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        from dwindle.export.onnx.graph import skeleton

        model, encoding = self._filled(skeleton(module, inputs), module, pack=pack)
        path.write_bytes(model.SerializeToString())
        return encoding

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        from dwindle.export.onnx.graph import skeleton

        pairs = foldable(module, inputs)
        graph = skeleton(fold(module, pairs), inputs)
        return lambda candidate: self._filled(graph, fold(candidate, pairs), pack=True)[0].ByteSize()

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return one_by_one(lambda sample: session.run(None, dict(zip(names, sample, strict=True)))[0], inputs)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        import onnx

        from dwindle.export.onnx import read

        held = read.tensors(onnx.load(path))
        return {name: held[short] for name, short in short_names(module).items() if short in held}

    def _filled(self, skeleton: ModelProto, network: nn.Module, *, pack: bool) -> tuple[ModelProto, str]:
        from dwindle.export.onnx.fill import fill

        names = short_names(network)
        return fill(skeleton, {names[name]: held for name, held in stored(network, self.precision).items()}, pack=pack)
