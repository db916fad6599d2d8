"""Files that compute in int8, of networks with random weights: for what they cost, not for what they are worth."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dwindle.export.fold import deployable
from dwindle.export.target import Target
from dwindle.export.targets import load
from dwindle.models.build import ModelSpec, build
from studies.latency.cost import normalized

FILES = {"executorch": ("fp32", "w8a8", "int8"), "litert": ("fp32", "w8a8"), "onnx": ("fp32", "w8a8")}
"""By target the float file, and those that compute in int8. Core ML runs on no machine but Apple's."""
CALIBRATED = 16


def written(
    name: str, shape: tuple[int, ...], target: str, precision: str, folder: Path
) -> tuple[Target, Path, Tensor]:
    """A network's dense file in `folder`, its target, and a sample as a batch of one.

    Batch norm is that of noise, on which w8a8 is calibrated too: what a dense file costs doesn't depend on its values.
    """
    torch.manual_seed(0)
    network = normalized(build(ModelSpec(name, 10, shape)), shape)
    real = torch.randn(CALIBRATED, *shape)
    made = load(target, precision)
    made = made.calibrated((real,)) if made.calibrates else made
    path = folder / f"{precision}{made.suffix}"
    made.write(deployable(network, (real[:1],)), (real[:1],), path, pack=False)
    return made, path, real[:1]
