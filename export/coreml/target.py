"""Core ML: an ML Program that computes in fp16, its weights packed as Core ML's own sparse and int8 constants."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.export.coreml.interface import PLAIN, Interface, pixels
from dwindle.export.coreml.read import main_block
from dwindle.export.fold import fold, foldable, short_names
from dwindle.export.quantize import quantized, stored
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from coremltools.proto.Model_pb2 import Model
    from torch import Tensor, nn

    from dwindle.export.coreml.program import Program


class CoreML:
    """An .mlpackage, which is a folder, for iOS 16 and macOS 13, or for a later system.

    Sparse codes are iOS 18's; for an earlier system such weights are stored dense, or sparse in fp16, whichever takes
    fewer bytes: the same weights in either form.
    """

    name = "coreml"
    suffix = ".mlpackage"
    precisions = ("fp16", "int8", "int4", "palette4")
    systems = ("iOS16", "iOS17", "iOS18")
    arithmetic = "fp16"
    packs_zeros = True
    packages = ("torch", "coremltools")

    def __init__(self, precision: str = precisions[0], min_os: str | None = None, interface: Interface = PLAIN) -> None:
        self.interface = interface
        self.precision = precision
        self.min_os = min_os or ("iOS16" if precision == "fp16" else "iOS18")

    @property
    def note(self) -> str | None:
        """What the system lacks of what was asked for."""
        if self.precision == "fp16" or self.min_os == "iOS18":
            return None
        dense = {
            "int8": "dense int8",
            "int4": "dense int8 where a row has one scale, dense fp16",
            "palette4": "a dense palette where rows have no scales, dense fp16",
        }[self.precision]
        return (
            f"{self.min_os} holds no sparse {self.precision}: it is {dense} or sparse fp16 there, whichever is smaller"
        )

    def facing(self, interface: Interface) -> CoreML:
        """The same target, whose files meet the app so."""
        return CoreML(self.precision, self.min_os, interface)

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        files, words = self.files(module, inputs, pack=pack)
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return words

    def files(self, module: nn.Module, inputs: tuple[Tensor, ...], *, pack: bool) -> tuple[dict[str, bytes], str]:
        """What `write` writes, by the paths in the package, and the encoding in words."""
        from dwindle.export.coreml.program import convert

        return self._filled(convert(module, inputs, self.min_os, self.interface), module, inputs, pack=pack)

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        packed = self.packed(module, inputs)
        return lambda candidate: sum(map(len, packed(candidate).values()))

    def packed(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], dict[str, bytes]]:
        """A function from a module of the same architecture to its package's files, by their paths in it."""
        from dwindle.export.coreml.program import convert

        pairs = foldable(module, inputs)
        program = convert(fold(module, pairs), inputs, self.min_os, self.interface)
        return lambda candidate: self._filled(program, fold(candidate, pairs), inputs, pack=True)[0]

    @property
    def stand_in(self) -> str | None:
        """What runs its files here, where Core ML isn't."""
        if platform.system() == "Darwin":
            return None
        return "dwindle's own interpreter of the file (fp16 weights, fp32 arithmetic), not Core ML itself"

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        infer = self.loaded(path)
        return one_by_one(lambda sample: infer(sample)[0], inputs)

    def loaded(self, path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
        """A file ready to run on an array per input, a batch of one: by Core ML on a Mac, else by its stand-in.

        Arrays are what the network takes: for a file that takes images they become pixels first. Of a classifier the
        output is its scores.

        Raises RuntimeUnavailable for a file with an operation that the stand-in lacks.
        """
        return _by_interpreter(path) if self.stand_in else _by_core_ml(path)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.coreml.read import weights

        held = weights(path)
        return {name: held[short] for name, short in short_names(module).items() if short in held}

    def _filled(
        self, program: Program, network: nn.Module, inputs: tuple[Tensor, ...], *, pack: bool
    ) -> tuple[dict[str, bytes], str]:
        """The files of a network of the program's architecture, and the encoding in words."""
        from dwindle.export.coreml.package import package
        from dwindle.export.coreml.program import convert_as_is

        held = stored(network, self.precision)
        if not program.complete:  # what is computed from weights follows from their values
            program = convert_as_is(quantized(network, held), inputs, self.min_os, self.interface)
        coded = {name: own for name, own in held.items() if own.scale is not None or own.palette is not None}
        codes = {name: coded[source] for name, source in program.sources.items() if source in coded}
        return package(program.model, program.filled(held), codes, pack=pack)


def _by_core_ml(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    import numpy as np

    with quiet():
        import coremltools

        # On the CPU: what other units a Mac has is no property of the file.
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    spec = model.get_spec()
    inputs, outputs = ([value.name for value in values] for values in (spec.description.input, spec.description.output))
    images = {value.name for value in spec.description.input if value.type.HasField("imageType")}
    scores, labels = spec.description.predictedProbabilitiesName, _labels(spec)

    def given(name: str, array: np.ndarray) -> Any:
        if name not in images:
            return array
        from PIL import Image

        return Image.fromarray(pixels(spec, array)[0].transpose(1, 2, 0).squeeze().astype(np.uint8))

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
