"""What least squares needs of a layer's inputs and of the outputs wanted: second moments, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over positions, in float64, one set for each group of a layer.

    `inputs` and `outputs` below are how many of each a group has.
    """

    count: int
    """Positions that were added."""
    inner: Tensor
    """Inputs times inputs, the Gram matrix: (groups, inputs, inputs)."""
    cross: Tensor
    """Inputs times outputs wanted: (groups, inputs, outputs)."""
    energy: Tensor
    """Outputs wanted, squared: (groups, outputs)."""
    input_sum: Tensor
    """(groups, inputs)."""
    output_sum: Tensor
    """(groups, outputs)."""

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int, device: torch.device | None = None) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(groups, *shape, dtype=torch.float64, device=device)

        return cls(0, zeros(inputs, inputs), zeros(inputs, outputs), zeros(outputs), zeros(inputs), zeros(outputs))

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds positions: (groups, positions, inputs) and (groups, positions, outputs), of any float type.

        Each call's products are in that type, their sum in float64: give a few thousand positions at a time.
        """
        self.count += inputs.shape[1]
        transposed = inputs.transpose(1, 2)
        self.inner += transposed @ inputs
        self.cross += transposed @ outputs
        self.energy += outputs.square().sum(1)
        self.input_sum += inputs.sum(1)
        self.output_sum += outputs.sum(1)

    @property
    def finite(self) -> bool:
        """Whether no input and no output was infinite or not a number."""
        return bool(self.inner.isfinite().all() and self.cross.isfinite().all() and self.energy.isfinite().all())

    def centred(self) -> Moments:
        """The same of inputs and outputs less their means: what is to be fitted where a bias makes up for the means."""
        mean = self.input_sum / self.count
        return Moments(
            self.count,
            self.inner - mean[:, :, None] * self.input_sum[:, None, :],
            self.cross - mean[:, :, None] * self.output_sum[:, None, :],
            self.energy - self.output_sum.square() / self.count,
            torch.zeros_like(self.input_sum),
            torch.zeros_like(self.output_sum),
        )

    def bias(self, rows: Tensor) -> Tensor:
        """The biases that give the outputs' means: (groups, outputs), for matrices (groups, outputs, inputs)."""
        mean = self.input_sum / self.count
        return self.output_sum / self.count - (rows.double() @ mean[:, :, None])[..., 0]

    def error(self, rows: Tensor) -> Tensor:
        """Squared error, summed over positions, of each row of the matrices (groups, outputs, inputs): (groups,
        outputs)."""
        rows = rows.double()
        fitted = ((rows @ self.inner) * rows).sum(2)
        return fitted - 2 * (rows * self.cross.transpose(1, 2)).sum(2) + self.energy
