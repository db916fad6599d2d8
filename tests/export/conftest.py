"""The zoo's smallest network as training and pruning might leave it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

from dwindle.models.zoo import resnet8


def _trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights and statistics as training might leave them, in training mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
    return network.train()


def _masked(network: nn.Module, density: float, seed: int = 0) -> nn.Module:
    """Zeros all but `density` of every weight of a convolution or linear layer, in place, leaving signed zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight *= torch.rand(module.weight.shape, generator=generator) < density
    return network


@contextmanager
def _captured_output(file: Path) -> Iterator[None]:
    """Everything the process prints, native code included, goes to `file`: capfd, for fixtures of a module."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with file.open("w") as sink, redirect_stdout(sink), redirect_stderr(sink):
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        for number, duplicate in enumerate(kept, start=1):
            os.dup2(duplicate, number)
            os.close(duplicate)


@pytest.fixture(scope="session")
def trained() -> Callable[..., nn.Module]:
    return _trained


@pytest.fixture(scope="session")
def masked() -> Callable[..., nn.Module]:
    return _masked


@pytest.fixture(scope="session")
def captured_output() -> Callable[[Path], AbstractContextManager[None]]:
    return _captured_output


class GatherElements(OpRun):
    """As the standard has it: onnx 1.23's own gives up beyond 64 values."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices, axis or 0),)


@pytest.fixture(scope="session")
def by_reference() -> Callable[[onnx.ModelProto, np.ndarray], np.ndarray]:
    """Runs a model of one input in onnx's reference implementation."""

    def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
        inlined = inline_local_functions(model)  # a function's evaluator doesn't know of new_ops
        return ReferenceEvaluator(inlined, new_ops=[GatherElements]).run(None, {"x": x})[0]

    return run


@pytest.fixture
def network() -> nn.Module:
    """A trained ResNet-8 for the 8×8 digits, 77,754 parameters, in training mode."""
    return _trained(resnet8(in_channels=1))


@pytest.fixture(scope="session")
def example() -> tuple[Tensor, ...]:
    return (torch.zeros(1, 1, 8, 8),)


@pytest.fixture(scope="session")
def samples() -> tuple[Tensor, ...]:
    return (torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)
