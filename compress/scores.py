"""Scores: how much each weight matters. The lowest go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Score = Callable[[Mapping[str, "Tensor"]], dict[str, "Tensor"]]
"""Weights by name → one non-negative score per weight, comparable across tensors."""


def magnitude(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w|, ranked over the whole network: the criterion of Renda et al. 2020 and of the lottery ticket."""
    return {name: weight.detach().abs() for name, weight in weights.items()}
