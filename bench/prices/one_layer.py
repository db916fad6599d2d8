"""Files of one layer each, as a target's own exporter writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import registry
from dwindle.price import Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


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


def written(shapes: Sequence[Shape], target: str, precision: str, folder: Path) -> list[tuple[Path, list[np.ndarray]]]:
    """A dense file for each layer in `folder`, and what it takes: one array, a batch of one.

    Raises UsageError where the target can't take such a layer.
    """
    import torch

    kind = registry.resolve("dwindle.targets", target, "target")
    found = []
    for index, shape in enumerate(shapes):
        size = (shape.inputs, *shape.size) if shape.kernel else (*shape.size, shape.inputs)
        example = torch.randn(1, *size, generator=torch.Generator().manual_seed(index))
        own = kind(precision)
        own = own.calibrated((example,)) if own.calibrates else own
        path = folder / f"{index}{own.suffix}"
        own.write(module(shape), (example,), path, pack=False)
        found.append((path, [example.numpy()]))
    return found
