"""ONNX: weights packed, sparsity and precision together, in a graph that unpacks them itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.export.fold import distinct, fold, foldable, short_names
from dwindle.export.int8_target import Int8Target
from dwindle.export.onnx.consumers import NEWEST, OLDEST, consumers, newest_opset, require
from dwindle.export.quantize import Stored, stored
from dwindle.export.target import Outputs, one_by_one
from dwindle.export.w8a8 import Form, quantize, require_packages
from dwindle.export.w8a8_codes import recoded
from dwindle.export.w8a8_samples import noise_like
from dwindle.export.zeros import Effect, Effects, Speed, removed
from dwindle.onnx_session import infer, session

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor, nn

    from dwindle.manifest import Breakdown, Consumer

_UNPACKED = Speed(
    "CPU",
    faster=False,
    basis="measured",
    source="studies/packing/results.md",
    detail="weights are unpacked when the session is created; inference takes .99 to 1.02 of the dense file's time",
)


class Onnx(Int8Target):
    """Files for onnxruntime, or anything that reads stock ONNX: no custom operator, no external data."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8", "int4", "palette4", "w8a8")
    dynamic = True
    packages = ("torch", "onnx", "onnxscript", "onnxruntime")
    lacks = ("complex64",)
    effects = Effects(
        weights=Effect(True, "a Golomb-Rice code of the mask, and the surviving weights", (_UNPACKED,)),
        n_of_m=Effect(True, "a code of the mask (base 6 for 2:4), and the surviving weights", (_UNPACKED,)),
        channel=removed(
            Speed("CPU", True, "measured", "studies/channels/speed.md", "2.0 times at half the multiply-accumulates")
        ),
    )

    runtimes = tuple(OLDEST)
    _form = Form(rest="fp16")
    holds_metadata = True

    def __init__(
        self,
        precision: str | None = None,
        min_os: str | None = None,
        samples: tuple[Tensor, ...] | None = None,
        min_runtime: tuple[str, tuple[int, int]] | None = None,
    ) -> None:
        """samples: real inputs, batched, for the ranges of w8a8's activations; None: what `write` is given.

        min_runtime: the name and version of the oldest program that must load the files; None: any that has the newest
        operator set that files are written in.
        """
        super().__init__(precision, min_os, samples)
        self.min_runtime = min_runtime
        self._opset = newest_opset(*min_runtime) if min_runtime else NEWEST
        if self.calibrates:
            require_packages()

    def for_runtime(self, name: str, version: tuple[int, int]) -> Onnx:
        changed = copy.copy(self)
        changed.min_runtime, changed._opset = (name, version), newest_opset(name, version)
        return changed

    def original(self) -> Onnx:
        return Onnx(min_runtime=self.min_runtime)

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        if self.calibrates:
            from dwindle.export.onnx import qdq
            from dwindle.export.onnx.fill import fill

            quantized = self.quantized(module, inputs)
            graph = self._in_range(qdq.skeleton(module, quantized, inputs, self._opset))
            model, encoding = fill(graph, qdq.stored(module, quantized.layers), pack=pack)
        else:
            model, encoding = _filled(self._skeleton(module, inputs), module, self.stored(module), pack=pack)
        path.write_bytes(self._described(model).SerializeToString())
        return encoding

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        if self.calibrates:
            return self._packer_of_codes(module, inputs)
        pairs = foldable(module, inputs)
        graph = self._skeleton(fold(module, pairs), inputs)

        def bytes_of(candidate: nn.Module) -> int:
            network = fold(candidate, pairs)
            model, _ = _filled(graph, network, stored(network, self.precision), pack=True)
            size: int = self._described(model).ByteSize()
            return size

        return bytes_of

    def _packer_of_codes(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        """The graph's size does not depend on ranges: those of noise stand for any. Codes are of the candidate."""
        from dwindle.export.onnx import qdq
        from dwindle.export.onnx.fill import fill

        pairs = foldable(module, inputs)
        network = fold(module, pairs)
        made = quantize(distinct(network), noise_like(inputs), self._counted)
        graph = self._in_range(qdq.skeleton(network, made, inputs, self._opset))

        def size(candidate: nn.Module) -> int:
            folded = fold(candidate, pairs)
            model = fill(graph, qdq.stored(folded, recoded(folded, made.layers)), pack=True)[0]
            return int(self._described(model).ByteSize())

        return size

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        run = infer(session(str(path)))
        return one_by_one(run, inputs, batch)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        import onnx

        from dwindle.export.onnx import read

        found = read.tensors(onnx.load(path))
        return {name: found[short] for name, short in short_names(module).items() if short in found}

    def breakdown(self, path: Path) -> Breakdown:
        import onnx

        from dwindle.export.onnx import read

        return read.breakdown(onnx.load(path))

    def consumers(self, path: Path) -> tuple[Consumer, ...]:
        import onnx

        return consumers(onnx.load(path))

    def _described(self, model: ModelProto) -> ModelProto:
        """The model, which says what it is to say of itself."""
        for key, text in self.metadata.items():
            model.metadata_props.add(key=key, value=text)
        return model

    def _skeleton(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> ModelProto:
        from dwindle.export.onnx.graph import skeleton

        return self._in_range(skeleton(network, inputs, self._opset))

    def _in_range(self, graph: ModelProto) -> ModelProto:
        """The graph itself; raises UsageError where the oldest runtime that must load it can't."""
        if self.min_runtime:
            require(graph, *self.min_runtime)
        return graph


def _filled(
    skeleton: ModelProto, network: nn.Module, weights: dict[str, Stored], *, pack: bool
) -> tuple[ModelProto, str]:
    from dwindle.export.onnx.fill import fill

    names = short_names(network)
    return fill(skeleton, {names[name]: tensor for name, tensor in weights.items()}, pack=pack)
