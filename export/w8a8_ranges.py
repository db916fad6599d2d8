"""The range of an activation that int8 spans: the one of least squared error, or all that was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torchao.quantization.pt2e.observer import HistogramObserver

if TYPE_CHECKING:
    from torch import Tensor


class Range(HistogramObserver):
    """Observes a value's histogram, from which torchao finds the range of least squared error."""

    whole = False
    """Whether the range is all that was seen, from the least to the largest value."""

    def forward(self, values: Tensor) -> Tensor:
        """Observes what is finite of some values, and returns them as they are."""
        finite = values.isfinite()
        super().forward(values if bool(finite.all()) else values[finite])
        return values

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale and the zero point of the range."""
        if self.whole:
            return cast("tuple[Tensor, Tensor]", self._calculate_qparams(self.min_val, self.max_val))
        return cast("tuple[Tensor, Tensor]", super().calculate_qparams())
