"""Core ML: an fp16 ML Program for iOS 16 and macOS 13, the sparsity packed as Core ML's own sparse constants."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import RuntimeUnavailable
from dwindle.export.fold import fold, foldable, short_names
from dwindle.export.quiet import quiet
from dwindle.export.target import one_by_one

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.export.coreml_program import Program


class CoreML:
    """An .mlpackage, which is a folder."""

    name = "coreml"
    suffix = ".mlpackage"
    precisions = ("fp16",)
    arithmetic = "fp16"
    packs_zeros = True
    packages = ("torch", "coremltools")

    def __init__(self, precision: str = precisions[0]) -> None:
        self.precision = precision

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        from dwindle.export.coreml_program import convert
        from dwindle.export.mlprogram import MODEL

        files = _files(convert(module, inputs), module, pack=pack)
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return "bitmask + fp16 survivors" if b"constexpr_sparse_to_dense" in files[MODEL] else "dense fp16"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        from dwindle.export.coreml_program import convert

        pairs = foldable(module, inputs)
        program = convert(fold(module, pairs), inputs)

        def packed_bytes(candidate: nn.Module) -> int:
            network = fold(candidate, pairs)
            # Where coremltools computed something from a weight, only converting anew has the right bytes.
            own = program if program.complete else convert(network, inputs)
            return sum(map(len, _files(own, network, pack=True).values()))

        return packed_bytes

    def run(self, path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
        if platform.system() != "Darwin":
            raise RuntimeUnavailable("Core ML runs on macOS only")
        with quiet():
            import coremltools

            model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
        description = model.get_spec().description
        names = [value.name for value in description.input]
        output = description.output[0].name
        return one_by_one(lambda sample: model.predict(dict(zip(names, sample, strict=True)))[output], inputs)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.mlprogram import weights

        held = weights(path)
        return {name: held[short] for name, short in short_names(module).items() if short in held}


def _files(program: Program, network: nn.Module, *, pack: bool) -> dict[str, bytes]:
    from dwindle.export.mlpackage import package

    return package(program.model, program.filled(network), pack=pack)
