"""The zoo's smallest network as training and pruning might leave it."""

from __future__ import annotations

import os
import struct
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

from dwindle.export import architecture
from dwindle.export.coreml.read import MODEL, WEIGHTS, main_block, operations
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


@pytest.fixture
def one_model() -> Iterator[None]:
    """Networks of one architecture are traced and converted once in the test, as in an export."""
    with architecture.one_model():
        yield


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


def _coremltools_weights(path: Path) -> list[np.ndarray]:
    """What coremltools' own loader makes of the weights of convolutions and linear layers."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    program = load(spec, spec.specificationVersion, str((path / WEIGHTS).parent))
    steps = [step for step in program.functions["main"].operations if step.op_type in ("conv", "linear")]
    sources = [step.weight.op for step in steps]
    return [source.val.val if source.op_type == "const" else _decoded(source) for source in sources]


def _decoded(source: object) -> np.ndarray:
    found = source.materialized_val_inference()  # type: ignore[attr-defined]
    return found[-1] if isinstance(found, tuple | list) else found


def _packed_operations(package: Path) -> list[tuple[bytes, ...]]:
    """Each packed constant as it is serialized, and the records and data it leads to, offsets and names aside."""
    from coremltools.proto.Model_pb2 import Model

    model, blobs = Model(), (package / WEIGHTS).read_bytes()
    model.ParseFromString((package / MODEL).read_bytes())
    found = []
    for operation in operations(main_block(model)):
        if not operation.type.startswith("constexpr_"):
            continue
        values = [argument.value for key in operation.inputs for argument in operation.inputs[key].arguments]
        values += [operation.attributes[key] for key in operation.attributes if key != "name"]
        parts = []
        for value in values:
            if value.WhichOneof("value") == "blobFileValue":
                record = blobs[value.blobFileValue.offset : value.blobFileValue.offset + 64]
                size, start = struct.unpack_from("<QQ", record, 8)
                parts += [record[:16] + record[24:] + blobs[start : start + size]]
                value.blobFileValue.offset = 0
        del operation.attributes["name"]
        for output in operation.outputs:
            output.name = ""
        for key in operation.inputs:
            for argument in operation.inputs[key].arguments:
                if argument.name:
                    argument.name = "another's"
        found.append((*sorted(parts), operation.SerializeToString(deterministic=True)))
    return found


@pytest.fixture(scope="session")
def coremltools_weights() -> Callable[[Path], list[np.ndarray]]:
    return _coremltools_weights


@pytest.fixture(scope="session")
def packed_operations() -> Callable[[Path], list[tuple[bytes, ...]]]:
    return _packed_operations


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
