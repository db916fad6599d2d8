"""ONNX: weights packed, sparsity and precision together, in a graph that unpacks them itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import UsageError
from dwindle.export.fold import fold, foldable, short_names, tensors
from dwindle.export.int8_target import Int8Target
from dwindle.export.onnx.consumers import NEWEST, OLDEST, consumers, newest_opset, require
from dwindle.export.quantize import CODED, Stored, stored
from dwindle.export.target import Outputs, Target, one_by_one
from dwindle.export.w8a8 import Form, quantize, require_packages
from dwindle.export.w8a8_codes import recoded
from dwindle.export.w8a8_samples import noise_like, untrained
from dwindle.export.zeros import Effect, Effects, Speed, removed
from dwindle.models.inputs import as_fed
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


_COMPUTES = ("fp32", "fp16")


class Onnx(Int8Target):
    """Files for onnxruntime, or anything that reads stock ONNX: no custom operator, no external data."""

    name = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", *CODED, "w8a8")
    mixes = True
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
        self._beyond: dict[str, str] = {}
        self._opset = newest_opset(*min_runtime) if min_runtime else NEWEST
        if self.calibrates:
            require_packages()

    def for_runtime(self, name: str, version: tuple[int, int]) -> Onnx:
        changed = copy.copy(self)
        changed.min_runtime, changed._opset = (name, version), newest_opset(name, version)
        return changed

    def original(self) -> Onnx:
        plain = Onnx(min_runtime=self.min_runtime)
        return plain if self.compute is None else plain.computing(self.compute)

    @property
    def arithmetic(self) -> str:
        return "fp16" if self._half else super().arithmetic

    @property
    def _half(self) -> bool:
        return self.compute == "fp16"

    @property
    def stand_in(self) -> str | None:
        if not self._half:
            return None
        return "onnxruntime's kernels for CPUs, which compute in fp32, with each result rounded to fp16"

    def computing(self, compute: str) -> Onnx:
        """In fp16 weights are stored in fp16 too where they would be in fp32."""
        if compute not in _COMPUTES:
            raise UsageError(
                f"`compute` {compute!r} is unknown to onnx: give {' or '.join(_COMPUTES)}",
                code="unknown-name",
                option="compute",
                name=compute,
            )
        if self.calibrates:
            raise UsageError(
                "files of `precision` w8a8 compute in int8: leave out `compute`, or give `precision` int8, whose codes "
                f"are unpacked to {compute}",
                code="conflict",
                option="compute",
            )
        changed = copy.copy(self)
        changed.compute = compute
        if changed._half and changed.precision == "fp32":
            changed.precision = "fp16"
        return changed

    def holding(self, network: nn.Module, inputs: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Target:
        """The same target, with the operations in fp32 that fp16 does not hold on `real`.

        It is `self` where a file in fp16 throughout is right, and where it does not run: parity says why.
        """
        from dwindle.export.answers import outputs_of
        from dwindle.export.holding import SAMPLES, beyond_fp16, samples_off
        from dwindle.export.onnx.half import spelled_out
        from dwindle.export.onnx.values import Values

        if not self._half:
            return super().holding(network, inputs, real)
        samples = tuple(as_fed(one[:SAMPLES]) for one in real)
        plain, weights = self._skeleton(network, inputs), self.stored(network)

        def rounding(fp32: Collection[str]) -> ModelProto:
            return spelled_out(self._model(self._computed(plain, network, fp32), network, weights, pack=False)[0])

        try:
            expected = outputs_of(self.as_stored(network, activations=False), samples)
            found = one_by_one(infer(session(rounding(()).SerializeToString())), samples)
            wrong = samples_off(samples, found, expected)
            if not wrong:
                return self
            exact = _filled(plain, network, weights, pack=False)[0]
            values = Values(plain, exact, rounding)
            beyond = beyond_fp16(values.steps, wrong)
        except UsageError:
            raise
        except Exception:  # whatever a runtime makes of a file it can't run
            return self
        changed = copy.copy(self)
        changed._beyond, changed.fp32 = beyond, tuple(f"{kind} {name}" for name, kind in beyond.items())
        return changed

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        if self.calibrates:
            from dwindle.export.onnx import qdq
            from dwindle.export.onnx.fill import fill

            quantized = self.quantized(module, inputs)
            graph = self._in_range(qdq.skeleton(module, quantized, inputs, self._opset))
            model, encoding = fill(graph, qdq.stored(quantized.weights_only, quantized.layers), pack=pack)
        else:
            graph = self._computed(self._skeleton(module, inputs), module, self._beyond)
            model, encoding = self._model(graph, module, self.stored(module), pack=pack)
        path.write_bytes(self._described(model).SerializeToString())
        return encoding

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        if self.calibrates:
            return self._packer_of_codes(module, inputs)
        pairs = foldable(module, inputs)
        folded = fold(module, pairs)
        graph = self._computed(self._skeleton(folded, inputs), folded, self._beyond)

        def bytes_of(candidate: nn.Module) -> int:
            network = fold(candidate, pairs)
            model, _ = self._model(graph, network, stored(network, self.storing), pack=True)
            size: int = self._described(model).ByteSize()
            return size

        return bytes_of

    def _packer_of_codes(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        """The graph's size does not depend on ranges: those of noise stand for any. Codes are of the candidate."""
        from dwindle.export.onnx import qdq
        from dwindle.export.onnx.fill import fill

        pairs = foldable(module, inputs)
        network = fold(module, pairs)
        made = quantize(untrained(network), noise_like(inputs), self._counted)
        graph = self._in_range(qdq.skeleton(network, made, inputs, self._opset))

        def size(candidate: nn.Module) -> int:
            folded = fold(candidate, pairs)
            model = fill(graph, qdq.stored(folded, recoded(folded, made.layers)), pack=True)[0]
            return int(self._described(model).ByteSize())

        return size

    def tensor_bytes(self, tensor: Stored) -> float:
        from dwindle.export.codes.packing import forms

        return min(form.size for form in forms(tensor, pack=True).values()) + sum(
            part.nbytes for part in (tensor.scale, tensor.palette) if part is not None
        )

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        run = infer(session(str(path)))
        if self._half:
            import onnx

            from dwindle.export.onnx.half import spelled_out

            one_by_one(run, tuple(one[:batch] for one in inputs), batch)  # the file itself runs
            run = infer(session(spelled_out(onnx.load(path)).SerializeToString()))
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

    def _computed(self, skeleton: ModelProto, network: nn.Module, fp32: Collection[str]) -> ModelProto:
        """The graph in what it is to compute in. fp32: the operations that stay in fp32 where that is fp16."""
        if not self._half:
            return skeleton
        from dwindle.export.onnx.half import halved

        names = short_names(network)
        return halved(skeleton, {names[name]: tensor.numpy() for name, tensor in tensors(network).items()}, fp32)

    def _model(
        self, graph: ModelProto, network: nn.Module, weights: dict[str, Stored], *, pack: bool
    ) -> tuple[ModelProto, str]:
        return _filled(graph, network, _halves(weights) if self._half else weights, pack=pack, half=self._half)

    def _in_range(self, graph: ModelProto) -> ModelProto:
        """The graph itself; raises UsageError where the oldest runtime that must load it can't."""
        if self.min_runtime:
            require(graph, *self.min_runtime)
        return graph


def _filled(
    skeleton: ModelProto, network: nn.Module, weights: dict[str, Stored], *, pack: bool, half: bool = False
) -> tuple[ModelProto, str]:
    from dwindle.export.onnx.fill import fill

    names = short_names(network)
    return fill(skeleton, {names[name]: tensor for name, tensor in weights.items()}, pack=pack, half=half)


def _halves(weights: dict[str, Stored]) -> dict[str, Stored]:
    """The same tensors, single numbers in fp16 too."""
    return {
        name: replace(tensor, values=tensor.values.astype("float16")) if tensor.values.dtype == "float32" else tensor
        for name, tensor in weights.items()
    }
