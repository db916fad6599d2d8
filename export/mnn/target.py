"""MNN: weights in fp32, fp16 or int8, sparse ones in a form that its kernels compute sparsely."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import RuntimeUnavailable
from dwindle.export.filled import Converter, FilledTarget
from dwindle.export.quiet import silent
from dwindle.export.target import Outputs, one_by_one
from dwindle.export.zeros import Effect, Effects, Speed
from dwindle.mnn import loaded

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.manifest import Breakdown

_STORAGE = (
    "survivors and their places where they take fewer bytes than dense weights: eight bytes each, and in int8 files "
    "under two, which are computed densely"
)


class MNN(FilledTarget):
    """A .mnn file for MNN's interpreter. Its converter, from ONNX, makes the graph; the weights are dwindle's."""

    name = "mnn"
    suffix = ".mnn"
    precisions = ("fp32", "fp16", "int8")
    packages = ("torch", "onnx", "MNN")
    effects = Effects(
        weights=Effect(
            True,
            _STORAGE,
            (
                Speed(
                    "CPU",
                    faster=True,
                    basis="measured",
                    source="studies/sparse/mnn.md",
                    detail="on ARM64, fp32 and fp16 files execute, with 90% zeros in blocks of 4 output channels, "
                    ".40 of the dense file's instructions (MobileNetV2) and .50 (ResNet-18), and with scattered ones "
                    ".55 and .73; at 70% scattered zeros the ResNet-18 executes 1.66, as its 3×3 convolutions run "
                    "faster densely, by Winograd's algorithm; below 60%, and in int8 files, all is computed densely",
                ),
            ),
        ),
        n_of_m=Effect(
            True,
            _STORAGE,
            (Speed("CPU", None, "unknown", detail="2:4 is stored dense: MNN computes more zeros sparsely"),),
        ),
    )

    arithmetic = "winograd"
    fastest = "4x1"

    def __init__(self, precision: str | None = None, min_os: str | None = None) -> None:
        if not (find_spec("MNN") and find_spec("flatbuffers")):
            raise RuntimeUnavailable(
                "the packages that write MNN files are not installed: pip install 'dwindle[mnn]'",
                code="not-installed",
                name="mnn",
            )
        super().__init__(precision, min_os)

    @property
    def converter(self) -> Converter:
        from dwindle.export.mnn import graph

        return graph

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        content, blocks = self.filled(module, inputs, pack=pack)
        path.write_bytes(content)
        if not blocks:
            return f"dense {self.precision}" + (", zeros as distances" if pack and self.precision == "int8" else "")
        largest = max(blocks)
        return "sparse fp32 survivors" + (f" in blocks of {largest} output channels" if largest > 1 else "")

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        with silent(1, 2):  # the native code says on stdout how it is going to compute
            infer = loaded(str(path), threads=1)
        return one_by_one(infer, inputs, batch)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        from dwindle.export.mnn.graph import read

        return read(path.read_bytes(), module)

    def breakdown(self, path: Path) -> Breakdown:
        from dwindle.export.mnn.file import breakdown

        return breakdown(path.read_bytes())
