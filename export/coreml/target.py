"""Core ML: an ML Program that computes in fp16, its weights packed as Core ML's own sparse and int8 constants."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.export.coreml.compute import FP32, Compute
from dwindle.export.coreml.interface import ARRAYS_ONLY, Interface, described, pixels
from dwindle.export.coreml.read import main_block
from dwindle.export.fold import fold, foldable, short_names
from dwindle.export.int8_target import Int8Target
from dwindle.export.quantize import CODED, MIXED, PALETTES, Stored, quantized, stored
from dwindle.export.target import Outputs, Target, one_by_one
from dwindle.export.w8a8 import Form, quantize, require_packages
from dwindle.export.w8a8_codes import held, recoded
from dwindle.export.w8a8_samples import noise_like
from dwindle.export.zeros import Effect, Effects, Speed
from dwindle.models.inputs import as_fed
from dwindle.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from coremltools.proto.Model_pb2 import Model
    from torch import Tensor, nn

    from dwindle.export.coreml.program import Program
    from dwindle.manifest import Breakdown

_COMPUTES = ("fp16", "fp32")
_TYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32"}
"""NumPy's names of `ArrayFeatureType.ArrayDataType` (FeatureTypes.proto): an app gives int32 for int64."""
_GUIDE = "Apple's coremltools guide, Pruning: Performance, August 2026"
_STORAGE = "a bit for each weight, and the surviving weights (constexpr_sparse_to_dense and its kind)"
_NEURAL_ENGINE = (
    Speed(
        "NPU",
        faster=True,
        basis="vendor",
        source=_GUIDE,
        detail="the Neural Engine may skip zeros that come in blocks of 2 and its multiples along the output channels",
        rows=2,
    ),
    Speed(
        "NPU",
        faster=True,
        basis="vendor",
        source=_GUIDE,
        detail="the Neural Engine loads fewer bytes, and may skip zeros at 75% of them or more: ResNet-50 takes 1.63 "
        "ms dense and 1.23, 1.05 and 0.86 ms at 50, 75 and 90%, MobileNetV2 0.48 and, at 75%, 0.46 ms",
        most=0.5,
    ),
)


class CoreML(Int8Target):
    """An .mlpackage, which is a folder, for iOS 16 and macOS 13, or for a later system.

    Sparse codes are iOS 18's; for an earlier system such weights are stored dense, or sparse in fp16, whichever takes
    fewer bytes: the same weights in either form. At w8a8 activations are quantised and dequantised, from iOS 17 on.
    """

    name = "coreml"
    suffix = ".mlpackage"
    precisions = ("fp16", *CODED, "w8a8")
    mixes = True
    systems = ("iOS16", "iOS17", "iOS18")
    since = {"w8a8": "iOS17", **dict.fromkeys((*PALETTES[1:], MIXED), "iOS18")}  # noqa: RUF012  # as the base has it
    packages = ("torch", "coremltools")
    lacks = ("int8", "uint8", "complex64")
    _form = Form(rest="fp16", bias="fp16")
    takes_interface = True
    holds_metadata = True
    dynamic = True
    effects = Effects(
        weights=Effect(True, _STORAGE, _NEURAL_ENGINE),
        n_of_m=Effect(
            True,
            _STORAGE,
            (
                *_NEURAL_ENGINE,
                Speed(
                    "CPU",
                    faster=True,
                    basis="vendor",
                    source=_GUIDE,
                    detail="linear layers on recent chips, where at least half of every m weights are zero and m is a "
                    "factor of 16",
                    most=0.5,
                ),
            ),
        ),
    )

    def __init__(
        self,
        precision: str | None = None,
        min_os: str | None = None,
        interface: Interface = ARRAYS_ONLY,
        compute: str | None = None,
        fp32: Mapping[str, str] | None = None,
        samples: tuple[Tensor, ...] | None = None,
    ) -> None:
        """compute: fp32 or fp16; None: fp16. fp32: what computes in fp32 all the same, as of `holding.beyond_fp16`.

        samples: real inputs, batched, for the ranges of w8a8's activations; None: what `write` is given.
        """
        super().__init__(precision, min_os, samples)
        self.interface = interface
        self.compute = compute
        self._beyond = dict(fp32 or {})
        self.fp32 = tuple(f"{kind} {name}" for name, kind in self._beyond.items())
        self.min_os: str = min_os or ("iOS16" if self.precision == "fp16" else "iOS18")
        if self.precision in (*PALETTES[1:], MIXED) and self.min_os != "iOS18":
            raise UsageError(
                f"Core ML has sparse palettes of 1, 2 and 3 bits from iOS 18 on: give `min_os` iOS18 with "
                f"{self.precision}, or `precision` palette4, which {self.min_os} has",
                code="system-too-old",
                option="min_os",
                name=self.min_os,
            )
        if self.calibrates:
            require_packages()
            if self.min_os == "iOS16":
                raise UsageError(
                    "Core ML computes in int8 from iOS 17 on: give `min_os` iOS17 or iOS18, or `precision` int8, which "
                    "iOS 16 has",
                    code="system-too-old",
                    option="min_os",
                    name="iOS16",
                )

    @property
    def arithmetic(self) -> str:
        return self.compute or "fp16"

    @property
    def _compute(self) -> Compute:
        return FP32 if self.compute == "fp32" else Compute(fp32=frozenset(self._beyond))

    def _but(self, **changed: Any) -> CoreML:
        """The same target with other arguments."""
        own = {"interface": self.interface, "compute": self.compute, "fp32": self._beyond, "samples": self.samples}
        made = CoreML(self.precision, self.min_os, **{**own, **changed})
        made.rounding, made.metadata, made._calibration = self.rounding, self.metadata, self._calibration
        made.widths = self.widths
        return made

    def computing(self, compute: str) -> CoreML:
        if compute not in _COMPUTES:
            raise UsageError(
                f"`compute` {compute!r} is unknown to coreml: give {' or '.join(_COMPUTES)}",
                code="unknown-name",
                option="compute",
                name=compute,
            )
        if compute == "fp32" and self.precision != "fp16":
            raise UsageError(
                f"codes of {self.precision} are unpacked to fp16: give `precision` fp16 with `compute` fp32",
                code="conflict",
                option="compute",
            )
        return self._but(compute=compute)

    def holding(self, network: nn.Module, inputs: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Target:
        """The same target, with the operations in fp32 that fp16 does not hold on `real`.

        It is `self` where a file in fp16 throughout is right, and where nothing here can run its operations.
        """
        from dwindle.export.answers import outputs_of
        from dwindle.export.coreml.mil_torch import Interpreter
        from dwindle.export.coreml.program import convert
        from dwindle.export.holding import SAMPLES, beyond_fp16, samples_off

        if self.calibrates:
            return super().holding(network, inputs, real)
        if self.arithmetic == "fp32" or self.interface.image:
            return self
        samples = tuple(as_fed(one[:SAMPLES]) for one in real)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.mlpackage")
            try:
                self.write(network, inputs, path, pack=False)
                expected = outputs_of(self.as_stored(network, activations=False), samples)
                wrong = samples_off(samples, self.run(path, samples), expected)
                if not wrong:
                    return self
                whole = CoreML(self.precision, self.min_os, self.interface, "fp32").mixing(self.widths)
                path = Path(folder, "whole.mlpackage")
                whole.write(network, inputs, path, pack=False)
                beyond = beyond_fp16(Interpreter(path).steps, wrong)
            except UsageError:
                raise
            except Exception:  # parity says what does not run, and why
                return self
        if not beyond:
            return self
        names = convert(network, inputs, self.min_os, self.interface, FP32).names
        return self._but(fp32={names.get(name, name): kind for name, kind in beyond.items()})

    @property
    def note(self) -> str | None:
        """How the weights are stored where the system has no sparse form of the precision; None where it has one."""
        if self.precision == "fp16" or self.min_os == "iOS18":
            return None
        if self.calibrates:
            return f"{self.min_os} has no sparse form of codes that it computes with: weights are dense int8"
        dense = {
            "int8": "dense int8",
            "int4": "dense int8 where a row has one scale, dense fp16",
            "palette4": "a dense palette where rows have no scales, dense fp16",
        }[self.precision]
        return (
            f"{self.min_os} has no sparse form of {self.precision}: weights are stored as {dense} or sparse fp16, "
            "whichever is smaller"
        )

    def with_interface(self, interface: Interface) -> CoreML:
        return self._but(interface=interface)

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        files, words = self.files(module, inputs, pack=pack)
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return words

    def files(self, module: nn.Module, inputs: tuple[Tensor, ...], *, pack: bool) -> tuple[dict[str, bytes], str]:
        """What `write` writes, by the paths in the package, and the encoding in words."""
        from dwindle.export.coreml.program import convert, convert_int8

        if self.calibrates:
            made = self.quantized(module, inputs)
            program = convert_int8(made, inputs, self.min_os, self.interface)
            return self._packaged(program, held(made.weights_only, made.layers), pack=pack)
        return self._filled(
            convert(module, inputs, self.min_os, self.interface, self._compute),
            module,
            self.stored(module),
            inputs,
            pack=pack,
        )

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        packed = self.packed(module, inputs)
        return lambda candidate: sum(map(len, packed(candidate).values()))

    def packed(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], dict[str, bytes]]:
        """A function from a module of the same architecture to its package's files, by their paths in it."""
        from dwindle.export.coreml.program import convert

        if self.calibrates:
            return self._packed_codes(module, inputs)
        pairs = foldable(module, inputs)
        program = convert(fold(module, pairs), inputs, self.min_os, self.interface, self._compute)

        def files(candidate: nn.Module) -> dict[str, bytes]:
            network = fold(candidate, pairs)
            return self._filled(program, network, stored(network, self.storing), inputs, pack=True)[0]

        return files

    def _packed_codes(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], dict[str, bytes]]:
        """A program's size does not depend on ranges, but for which values are never negative. Codes are of the
        candidate."""
        from dwindle.export.coreml.program import convert_int8

        pairs = foldable(module, inputs)
        made = quantize(fold(module, pairs), self.samples or noise_like(inputs), self._counted)
        program = convert_int8(made, inputs, self.min_os, self.interface)

        def files(candidate: nn.Module) -> dict[str, bytes]:
            network = fold(candidate, pairs)
            return self._packaged(program, held(network, recoded(network, made.layers)), pack=True)[0]

        return files

    @property
    def stand_in(self) -> str | None:
        """What runs its files on a machine without Core ML; None on a Mac."""
        if platform.system() == "Darwin":
            return None
        return "dwindle's own interpreter of the file (fp16 weights, fp32 arithmetic), not Core ML itself"

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        infer = self.loaded(path)
        return one_by_one(infer, inputs, batch)

    def loaded(self, path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        """A function from an array for each input, a batch of one, to the file's outputs.

        It runs in Core ML on a Mac, and in `stand_in` elsewhere. The arrays are what the network takes: for a file that
        takes images they are turned into pixels first. The output of a classifier is its scores.

        Raises RuntimeUnavailable for a file with an operation that the stand-in lacks.
        """
        return _by_interpreter(path) if self.stand_in else _by_core_ml(path)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.coreml.read import weights

        found = weights(path)
        return {name: found[short] for name, short in short_names(module).items() if short in found}

    def breakdown(self, path: Path) -> Breakdown:
        from dwindle.export.coreml.read import breakdown

        return breakdown(path)

    def _filled(
        self,
        program: Program,
        network: nn.Module,
        weights: dict[str, Stored],
        inputs: tuple[Tensor, ...],
        *,
        pack: bool,
    ) -> tuple[dict[str, bytes], str]:
        """The files of a network of the program's architecture, and the encoding in words."""
        from dwindle.export.coreml.program import convert_as_is

        if not program.complete:  # what is computed from weights follows from their values
            program = convert_as_is(quantized(network, weights), inputs, self.min_os, self.interface, self._compute)
        return self._packaged(program, weights, pack=pack)

    def _packaged(self, program: Program, weights: dict[str, Stored], *, pack: bool) -> tuple[dict[str, bytes], str]:
        """The files of a program that is filled with these weights, and the encoding in words."""
        from dwindle.export.coreml.package import package

        coded = {
            name: tensor for name, tensor in weights.items() if tensor.scale is not None or tensor.palette is not None
        }
        codes = {name: coded[source] for name, source in program.sources.items() if source in coded}
        filled, model = program.filled(weights), described(program.model, self.metadata)
        return package(model, filled, codes, pack=pack, computed=self.calibrates)


def _by_core_ml(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    import numpy as np

    with quiet():
        import coremltools

        # On the CPU: what other units a Mac has is no property of the file.
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    spec = model.get_spec()
    inputs, outputs = ([value.name for value in values] for values in (spec.description.input, spec.description.output))
    types = {value.name: value.type.multiArrayType.dataType for value in spec.description.input}
    images = {value.name: value.type.imageType for value in spec.description.input if value.type.HasField("imageType")}
    reversed_colours = {name for name, kind in images.items() if kind.ColorSpace.Name(kind.colorSpace) == "BGR"}
    scores, labels = spec.description.predictedProbabilitiesName, _labels(spec)

    def given(name: str, array: np.ndarray) -> Any:
        if name not in images:
            return array.astype(_TYPES[types[name]])
        from PIL import Image

        shown = pixels(spec, array)[0][:: -1 if name in reversed_colours else 1]  # PIL has no BGR
        return Image.fromarray(shown.transpose(1, 2, 0).squeeze().astype(np.uint8))

    def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
        answer = model.predict({name: given(name, array) for name, array in zip(inputs, arrays, strict=True)})
        if scores:
            return [np.array([[answer[scores][label] for label in labels]], np.float32)]
        return [np.asarray(answer[name]) for name in outputs]

    return infer


def _labels(model: Model) -> list[str]:
    """The classes of a classifier, in the order of its scores."""
    for operation in main_block(model).operations:
        if operation.type == "classify":
            (classes,) = operation.inputs["classes"].arguments
            return list(classes.value.immediateValue.tensor.strings.values)
    return []


def _by_interpreter(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    import torch

    from dwindle.export.coreml.mil_torch import Interpreter
    from dwindle.export.coreml.read import read

    interpreter, (model, _) = Interpreter(path), read(path)
    return lambda arrays: [
        output.numpy() for output in interpreter(*(torch.from_numpy(pixels(model, array)) for array in arrays))
    ]
