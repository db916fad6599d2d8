"""Files of one layer each, as a target's own exporter writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle import registry
from dwindle.price import Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


def module(shape: Shape) -> nn.Module:
    """The layer with random weights, in eval mode."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not shape.kernel:
            return nn.Linear(shape.inputs, shape.outputs).eval().requires_grad_(False)
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(shape.kernel)]
        layer: nn.Module = kind(
            shape.inputs,
            shape.outputs,
            shape.kernel,  # type: ignore[arg-type]
            shape.stride,  # type: ignore[arg-type]
            shape.padding,  # type: ignore[arg-type]
            shape.dilation,  # type: ignore[arg-type]
            shape.groups,
        )
        return layer.eval().requires_grad_(False)


def example(shape: Shape, seed: int) -> Tensor:
    """What the layer takes, a batch of one."""
    import torch

    size = (shape.inputs, *shape.size) if shape.kernel else (*shape.size, shape.inputs)
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(seed))


def put(model: nn.Module, inputs: Tensor, target: Any, path: Path) -> None:
    """Writes a dense file of a network in eval mode by one of export's targets; raises UsageError where that can't."""
    own = target.calibrated((inputs,)) if target.calibrates else target
    own.write(model, (inputs,), path, pack=False)


def written(shapes: Sequence[Shape], target: str, precision: str, folder: Path) -> list[tuple[Path, list[np.ndarray]]]:
    """A dense file for each layer in `folder`, and what it takes: one array, a batch of one.

    Raises UsageError where the target can't take such a layer.
    """
    kind = registry.resolve("dwindle.targets", target, "target")
    found = []
    for index, shape in enumerate(shapes):
        inputs, path = example(shape, index), folder / f"{index}{kind.suffix}"
        put(module(shape), inputs, kind(precision), path)
        found.append((path, [inputs.numpy()]))
    return found
