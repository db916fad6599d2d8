"""What targets share whose files compute in int8 at the precision w8a8."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

from dwindle.export.quantize import stored
from dwindle.export.target import Target
from dwindle.export.w8a8 import FORM, KEEP_AUTO, Calibration, Form
from dwindle.export.w8a8_samples import check_samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.export.quantize import Stored
    from dwindle.export.target import Rounding
    from dwindle.export.w8a8 import Quantized


class Int8Target(Target):
    """A target that rounds activations too at w8a8, to the ranges that they take on samples."""

    _form: ClassVar[Form] = FORM

    def __init__(
        self, precision: str | None = None, min_os: str | None = None, samples: tuple[Tensor, ...] | None = None
    ) -> None:
        """samples: real inputs, batched, for the ranges of w8a8's activations; None: what `write` is given."""
        super().__init__(precision, min_os)
        self.samples = samples
        self._calibration = Calibration(self._form)

    @property
    def arithmetic(self) -> str:
        return "int8" if self.calibrates else "fp32"

    @property
    def calibrates(self) -> bool:
        return self.precision == "w8a8"

    def calibrated(self, samples: tuple[Tensor, ...]) -> Self:
        check_samples(samples)
        changed = copy.copy(self)
        changed.samples, changed._calibration = samples, Calibration(self._calibration.form)
        return changed

    def keeping(self, names: tuple[str, ...]) -> Self:
        changed = copy.copy(self)
        changed._calibration = Calibration(replace(self._calibration.form, keep=names))
        return changed

    def rounded_by(self, rounding: Rounding) -> Self:
        changed = super().rounded_by(rounding)
        changed._calibration = Calibration(self._calibration.form)
        return changed

    def holding(self, network: nn.Module, inputs: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Target:
        if not self.calibrates:
            return super().holding(network, inputs, real)
        changed, made = copy.copy(self), self.quantized(network, inputs)
        changed.fp32 = (*made.kept, *self._without(network, inputs, made))
        return changed

    def trained_through(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Mapping[str, Stored]:
        return stored(network, "int8") if self.calibrates else super().trained_through(network, inputs)

    def _without(self, network: nn.Module, inputs: tuple[Tensor, ...], quantized: Quantized) -> tuple[str, ...]:
        """The kinds of operators that stay float in a network's file, as they have no int8 form there."""
        return quantized.without

    @property
    def _counted(self) -> Form:
        """The form that `packer` counts: layers that KEEP_AUTO would keep float, which depend on values, as int8."""
        form = self._calibration.form
        return replace(form, keep=()) if form.keep == KEEP_AUTO else form

    def as_stored(self, network: nn.Module, *, activations: bool) -> nn.Module:
        if not self.calibrates:
            return super().as_stored(network, activations=activations)
        assert self.samples is not None
        made = self.quantized(network, self.samples)
        return made.program if activations else made.weights_only

    def quantized(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Quantized:
        """The network in int8, by the samples; where there are none, by `inputs`."""
        return self._calibration.of(network, self.samples or inputs, self.rounding)
