"""ONNX: weights packed, sparsity and precision together, in a graph that unpacks them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.export.fold import fold, foldable, short_names
from dwindle.export.quantize import stored
from dwindle.export.target import Outputs, Target, one_by_one
from dwindle.export.zeros import Effect, Effects, Speed, removed
from dwindle.onnx_session import infer, session

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor, nn

    from dwindle.manifest import Breakdown

_UNPACKED = Speed(
    "CPU",
    faster=False,
    basis="measured",
    source="studies/packing/results.md",
    detail="weights are unpacked when the session is created; inference takes .99 to 1.02 of the dense file's time",
)


class Onnx(Target):
    """Files for onnxruntime, or anything that reads stock ONNX: no custom operator, no external data."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8", "int4", "palette4")
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")
    effects = Effects(
        weights=Effect(True, "a Golomb-Rice code of the mask, and the surviving weights", (_UNPACKED,)),
        n_of_m=Effect(True, "a code of the mask (base 6 for 2:4), and the surviving weights", (_UNPACKED,)),
        channel=removed(
            Speed("CPU", True, "measured", "studies/channels/speed.md", "2.0 times at half the multiply-accumulates")
        ),
    )

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

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> Outputs:
        run = infer(session(str(path)))
        return one_by_one(run, inputs)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        import onnx

        from dwindle.export.onnx import read

        found = read.tensors(onnx.load(path))
        return {name: found[short] for name, short in short_names(module).items() if short in found}

    def breakdown(self, path: Path) -> Breakdown:
        import onnx

        from dwindle.export.onnx import read

        return read.breakdown(onnx.load(path))

    def _filled(self, skeleton: ModelProto, network: nn.Module, *, pack: bool) -> tuple[ModelProto, str]:
        from dwindle.export.onnx.fill import fill

        names = short_names(network)
        return fill(
            skeleton, {names[name]: tensor for name, tensor in stored(network, self.precision).items()}, pack=pack
        )
