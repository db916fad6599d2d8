"""What a Core ML program computes in: fp16 but for the operations whose values it does not hold, or fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Compute:
    """fp16 or fp32, and which operations are exempt."""

    kind: str = "fp16"
    fp32: frozenset[str] = frozenset()
    """The operations that compute in fp32 where `kind` is fp16, by the converter's names of their outputs."""

    def precision(self) -> Any:
        """What coremltools calls `compute_precision`."""
        import coremltools

        if self.kind == "fp32":
            return coremltools.precision.FLOAT32
        if not self.fp32:
            return coremltools.precision.FLOAT16
        return coremltools.transform.FP16ComputePrecision(
            op_selector=lambda operation: not any(output.name in self.fp32 for output in operation.outputs)
        )


FP16, FP32 = Compute(), Compute("fp32")
