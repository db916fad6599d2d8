"""MNN: weights in fp32, fp16 or int8, sparse ones in a form that its kernels compute sparsely."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import RuntimeUnavailable
from dwindle.export.filled import Converter, FilledTarget
from dwindle.export.target import Outputs, one_by_one
from dwindle.export.zeros import Effect, Effects, Speed
from dwindle.mnn import loaded
from dwindle.quiet import silent

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from dwindle.manifest import Breakdown

_STORAGE = (
    "survivors and their places where they take fewer bytes than dense weights: eight bytes each, and in int8 files "
    "under two, which are computed densely"
)


def _cpu(faster: bool, detail: str, most: float = 1.0, rows: int = 1, precisions: tuple[str, ...] = ()) -> Speed:
    return Speed("CPU", faster, "measured", "studies/sparse/mnn.md", detail, most, rows, precisions)


class MNN(FilledTarget):
    """A .mnn file for MNN's interpreter. Its converter, from ONNX, makes the graph; the weights are dwindle's."""

    name = "mnn"
    suffix = ".mnn"
    precisions = ("fp32", "fp16", "int8")
    packages = ("torch", "onnx", "MNN")
    lacks = ("int8", "uint8", "complex64")
    effects = Effects(
        weights=Effect(
            True,
            _STORAGE,
            (
                _cpu(False, "int8 weights are computed densely whatever is zero", precisions=("int8",)),
                _cpu(
                    True,
                    "in blocks of 4 output channels, a MobileNetV2 executes .58, .49 and .40 of the dense file's "
                    "instructions at 70, 80 and 90% zeros, on ARM64, and a ResNet-18 .96, .73 and .50",
                    most=0.3,
                    rows=4,
                ),
                Speed(
                    "CPU",
                    None,
                    "unknown",
                    detail="from 30 to 70% zeros in blocks, nobody counted",
                    most=0.7,
                    rows=4,
                ),
                _cpu(
                    True,
                    "with 90% scattered zeros a MobileNetV2 executes .55 of the dense file's instructions, on ARM64, "
                    "and a ResNet-18 .73; at 70% the MobileNetV2 .92, and 3×3 convolutions, which run faster densely "
                    "below 84% zeros, are stored densely",
                    most=0.3,
                ),
                Speed("CPU", None, "unknown", detail="from 60 to 70% scattered zeros, nobody counted", most=0.4),
                _cpu(False, "below 60% scattered zeros, and 30% in blocks of 4, all is computed densely"),
            ),
            {"fp32": 0.4, "fp16": 0.25, "int8": 0.5},
        ),
        n_of_m=Effect(
            True,
            _STORAGE,
            (_cpu(False, "n:m patterns are stored like scattered zeros, and 2:4 densely"),),
            {"fp32": 0.4, "fp16": 0.25, "int8": 0.5},
        ),
        units=("CPU", "GPU"),
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
