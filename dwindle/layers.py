"""What pruning left of each layer, read from a checkpoint without building the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwindle.sealed import damaged_tensors

if TYPE_CHECKING:
    import numpy as np

    from dwindle.checkpoint import Checkpoint


@dataclass(frozen=True)
class Layer:
    """What is left of one weight tensor."""

    name: str
    before: tuple[int, ...]
    """The shape of the dense tensor, output channels first."""
    after: tuple[int, ...]
    """The shape of the tensor now."""
    density: float
    """The share of the dense tensor's weights that are neither cut nor zero."""

    @property
    def cut(self) -> bool:
        return self.before != self.after


def layers(checkpoint: Checkpoint) -> list[Layer]:
    """Every weight tensor of two or more dimensions, in the model's order; empty before there are weights."""
    after = _matrices(checkpoint, "weights")
    return [
        Layer(
            name.removesuffix(".weight"),
            weight.shape,
            after[name].shape,
            float((after[name] != 0).sum() / weight.size) if weight.size else 1.0,
        )
        for name, weight in _matrices(checkpoint, "dense").items()
        if name in after
    ]


def _matrices(checkpoint: Checkpoint, stem: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    path = checkpoint.path / f"{stem}.safetensors"
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="numpy") as stored:
            names = [name for name in stored.keys() if len(stored.get_slice(name).get_shape()) > 1]  # noqa: SIM118
            return {name: stored.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise damaged_tensors(path, error) from error
